//! What is wrong with a configuration file, and how it is shown: the line itself, with a caret under it.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said; `InvalidData` if the file is not UTF-8.
        error: std::io::Error,
    },
    /// The text has problems.
    Invalid {
        /// What the text is called in messages: mostly its path.
        origin: String,
        /// The text itself, to show the lines.
        text: String,
        /// At least one, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// One thing to change in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, naming the key.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// Line, counted from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when the file as a whole is meant.
    pub column: usize,
    /// The bytes meant; `None` for the file as a whole.
    pub(super) span: Option<Range<usize>>,
    /// An earlier place that this one contradicts, with its label.
    pub(super) earlier: Option<(Range<usize>, String)>,
}

impl Problem {
    /// A problem at `span` of `text`.
    pub(super) fn at(text: &str, span: Range<usize>, message: String, advice: String) -> Self {
        let before = &text[..text.floor_char_boundary(span.start)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            message,
            advice,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span: Some(span),
            earlier: None,
        }
    }

    /// A problem of the file as a whole: something is missing.
    pub(super) fn of_the_file(message: String, advice: String) -> Self {
        Self { message, advice, line: 0, column: 0, span: None, earlier: None }
    }

    fn group<'a>(&'a self, origin: &'a str, text: &'a str) -> Group<'a> {
        let title = Level::ERROR.primary_title(&self.message);
        let Some(span) = self.span.clone() else {
            return title.element(Origin::path(origin)).element(Level::HELP.message(&self.advice));
        };
        let mut snippet = Snippet::source(text)
            .path(origin)
            .annotation(AnnotationKind::Primary.span(span).label(&self.advice));
        if let Some((earlier, label)) = &self.earlier {
            snippet = snippet.annotation(AnnotationKind::Context.span(earlier.clone()).label(label));
        }
        title.element(snippet)
    }
}

impl ConfigError {
    /// The whole report, as [`Display`](fmt::Display) gives it or, with `colour`, for a terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        match self {
            Self::Unreadable { path, error } => {
                let message = format!("cannot read the configuration {}: {error}", path.display());
                renderer.render(&[Group::with_title(Level::ERROR.primary_title(message))])
            }
            Self::Invalid { origin, text, problems } => {
                let drawn: Vec<String> =
                    problems.iter().map(|problem| renderer.render(&[problem.group(origin, text)])).collect();
                drawn.join("\n\n")
            }
        }
    }

    /// The problems of the text; none when it could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Invalid { .. } => None,
        }
    }
}
