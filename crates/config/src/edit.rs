//! Edits of a configuration file that keep its comments, its order and everything else about it.

use thiserror::Error;
use toml_edit::{DocumentMut, Item, Table, TableLike};

/// Why an edit could not be made.
#[derive(Debug, Error)]
pub enum EditError {
    /// The text is not TOML.
    #[error("the configuration file is not TOML: {0}")]
    Syntax(#[from] toml_edit::TomlError),
    /// A part of the path is there and is not a table.
    #[error("`{0}` is not a table; correct it by hand")]
    NotATable(String),
    /// A file that the configuration names could not be read.
    #[error("[[files]] local_path {path:?} could not be read: {reason}")]
    File {
        /// The file as the configuration names it.
        path: String,
        /// Why it could not be read, and what to do.
        reason: String,
    },
}

/// Sets one key, such as `["http_service", "internal_port"]`, and leaves everything else as it is. Tables on the way
/// are made if they are missing.
///
/// # Errors
/// If the text is not TOML or the path leads through something that is not a table.
pub fn set(text: &str, path: &[&str], value: impl Into<toml_edit::Value>) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    let Some((key, tables)) = path.split_last() else { return Ok(text.to_owned()) };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in tables {
        let item = table.entry(name).or_insert_with(|| Item::Table(Table::new()));
        table = item.as_table_like_mut().ok_or_else(|| EditError::NotATable((*name).to_owned()))?;
    }
    let mut value = value.into();
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
    Ok(document.to_string())
}

/// Puts the content of every `[[files]] local_path` into the configuration: what `read` answers, in base 64. What is
/// sent to the platform must not depend on files that only the client has.
///
/// # Errors
/// If the text is not TOML or `read` fails.
pub fn inline_local_files(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    let Some(files) = document.get_mut("files") else { return Ok(text.to_owned()) };
    for file in tables(files) {
        let Some(path) = file.get("local_path").and_then(Item::as_str).map(str::to_owned) else { continue };
        let content = read(&path).map_err(|reason| EditError::File { path, reason })?;
        file.remove("local_path");
        file.insert("raw_value", toml_edit::value(content));
    }
    Ok(document.to_string())
}

fn tables(item: &mut Item) -> Vec<&mut dyn TableLike> {
    match item {
        Item::ArrayOfTables(tables) => tables.iter_mut().map(|table| table as &mut dyn TableLike).collect(),
        Item::Value(toml_edit::Value::Array(items)) => items
            .iter_mut()
            .filter_map(toml_edit::Value::as_inline_table_mut)
            .map(|table| table as &mut dyn TableLike)
            .collect(),
        other => other.as_table_like_mut().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_keeps_comments_and_order() {
        let text =
            "# mine\napp = \"a\" # its name\n\n[http_service]\n# the port\ninternal_port = 1\nforce_https = true\n";
        let edited = set(text, &["app"], "b").unwrap();
        let edited = set(&edited, &["http_service", "internal_port"], 8080).unwrap();
        let edited = set(&edited, &["deploy", "strategy"], "immediate").unwrap();
        assert_eq!(
            edited,
            "# mine\napp = \"b\" # its name\n\n[http_service]\n# the port\ninternal_port = 8080\nforce_https = true\n\
             \n[deploy]\nstrategy = \"immediate\"\n"
        );
        assert!(matches!(set("a = 1", &["a", "b"], 2), Err(EditError::NotATable(_))));
    }

    #[test]
    fn files_beside_the_configuration_travel_inside_it() {
        let read = |path: &str| if path == "conf/a" { Ok("QQ==".to_owned()) } else { Err("no such file".to_owned()) };
        let text = "[[files]]\nguest_path = \"/a\"\nlocal_path = \"conf/a\"\n";
        let inlined = inline_local_files(text, read).unwrap();
        assert_eq!(inlined, "[[files]]\nguest_path = \"/a\"\nraw_value = \"QQ==\"\n");
        let missing = inline_local_files("files = [{ guest_path = \"/b\", local_path = \"b\" }]", read).unwrap_err();
        assert_eq!(missing.to_string(), "[[files]] local_path \"b\" could not be read: no such file");
    }
}
