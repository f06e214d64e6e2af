//! Addresses as a look-up in `virtual_alias_maps` returns them: parted by commas, quoted where they must be.
#![forbid(unsafe_code)]

/// Appends an address to the list in `out`. Its local part, without quotes, is given in `parts`, so that a detail
/// can be put on without an allocation.
pub fn push(out: &mut String, parts: &[&str], domain: Option<&str>) {
    if !out.is_empty() {
        out.push(',');
    }
    if is_dot_string(parts.iter().flat_map(|part| part.chars())) {
        parts.iter().for_each(|part| out.push_str(part));
    } else {
        out.push('"');
        for character in parts.iter().flat_map(|part| part.chars()) {
            if matches!(character, '"' | '\\') {
                out.push('\\');
            }
            out.push(character);
        }
        out.push('"');
    }
    if let Some(domain) = domain {
        out.push('@');
        out.push_str(domain);
    }
}

/// Whether a local part needs no quotes (RFC 5321 section 4.1.2, and what RFC 6531 section 3.3 adds to atext).
fn is_dot_string(characters: impl Iterator<Item = char>) -> bool {
    let mut before = '.';
    for character in characters {
        let is_atext = character.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~".contains(character)
            || !character.is_ascii() && !character.is_control();
        if !is_atext && (character != '.' || before == '.') {
            return false;
        }
        before = character;
    }
    before != '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(parts: &[&str], domain: Option<&str>) -> String {
        let mut out = String::new();
        push(&mut out, parts, domain);
        out
    }

    #[test]
    fn a_list_is_parted_by_commas() {
        let mut out = String::new();
        push(&mut out, &["alice"], Some("example.net"));
        push(&mut out, &["bob", "+", "lists"], Some("example.net"));
        push(&mut out, &["dave"], None);
        assert_eq!(out, "alice@example.net,bob+lists@example.net,dave");
    }

    #[test]
    fn what_would_be_read_as_something_else_is_quoted() {
        for (parts, expected) in [
            (&["a.b-c_d"][..], "a.b-c_d@x"),
            (&["j\u{f6}rg"], "j\u{f6}rg@x"),
            (&["a", "+", ""], "a+@x"),
            (&["a,b"], "\"a,b\"@x"),
            (&["john smith"], "\"john smith\"@x"),
            (&["odd@name"], "\"odd@name\"@x"),
            (&["a\"b\\c"], "\"a\\\"b\\\\c\"@x"),
            (&["a", "+", "b c"], "\"a+b c\"@x"),
            (&["a.", "+", "b"], "a.+b@x"),
            (&["a", ".", ".b"], "\"a..b\"@x"),
            (&[".a"], "\".a\"@x"),
            (&["a."], "\"a.\"@x"),
            (&[""], "\"\"@x"),
        ] {
            assert_eq!(pushed(parts, Some("x")), expected, "{parts:?}");
        }
    }
}
