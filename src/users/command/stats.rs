//! `posthaste users stats`.
//!
//! Owns the figures and their names. Never judges them.
#![forbid(unsafe_code)]

use super::{Failure, OK};
use crate::users::key::LocalPart;
use crate::users::table::Table;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

pub(super) fn stats(path: &Path, as_json: bool, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(path).map_err(Failure::Table)?;
    let shape = table.shape();
    let (mut owned, mut limited, mut address_bytes) = (0_u64, 0_u64, 0_u64);
    for user in table.users() {
        let user = user.map_err(|damage| Failure::Damage(path.to_owned(), damage))?;
        owned += u64::from(user.uid().is_some());
        limited += u64::from(user.quota_bytes().is_some() || user.quota_messages().is_some());
        address_bytes += user.address().len() as u64;
    }
    let per_user = |bytes: u64| bytes as f64 / shape.users.max(1) as f64;
    let per_address = |bytes: u64| bytes as f64 / (shape.users + shape.aliases).max(1) as f64;
    let built_at = shape
        .built_at
        .and_then(|seconds| jiff::Timestamp::from_second(seconds.cast_signed()).ok())
        .map(|time| time.to_string());
    let figures = [
        ("users", json!(shape.users)),
        ("aliases", json!(shape.aliases)),
        ("domains", json!(shape.domains)),
        ("users_with_uid", json!(owned)),
        ("users_with_quota", json!(limited)),
        ("local_part_folded", json!(shape.local_part == LocalPart::Folded)),
        ("built_at", json!(built_at)),
        ("classes", json!(shape.classes)),
        ("path_templates", json!(shape.templates)),
        ("load_factor", rounded(shape.load)),
        ("longest_probe", json!(shape.longest_probe)),
        ("address_bytes_mean", rounded(per_user(address_bytes))),
        ("file_bytes", json!(shape.file_bytes)),
        ("class_bytes", json!(shape.class_bytes)),
        ("template_bytes", json!(shape.template_bytes)),
        ("domain_bytes", json!(shape.domain_bytes)),
        ("filter_bytes", json!(shape.filter_bytes)),
        ("elsewhere_bytes", json!(shape.elsewhere_bytes)),
        ("heap_bytes", json!(shape.heap_bytes)),
        ("file_bytes_per_address", rounded(per_address(shape.file_bytes))),
        ("class_bytes_per_address", rounded(per_address(shape.class_bytes))),
        ("template_bytes_per_address", rounded(per_address(shape.template_bytes))),
        ("domain_bytes_per_address", rounded(per_address(shape.domain_bytes))),
        ("filter_bytes_per_address", rounded(per_address(shape.filter_bytes))),
        ("elsewhere_bytes_per_address", rounded(per_address(shape.elsewhere_bytes))),
        ("heap_bytes_per_address", rounded(per_address(shape.heap_bytes))),
    ];
    if as_json {
        let object: serde_json::Map<String, Value> =
            figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        writeln!(out, "{}", Value::Object(object))?;
    } else {
        for (name, value) in figures {
            match value {
                Value::Null => writeln!(out, "{name:<28} not recorded")?,
                Value::String(text) => writeln!(out, "{name:<28} {text}")?,
                figure => writeln!(out, "{name:<28} {figure}")?,
            }
        }
    }
    Ok(OK)
}

fn rounded(figure: f64) -> Value {
    json!((figure * 100.0).round() / 100.0)
}
