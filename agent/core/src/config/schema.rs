//! What can be written: the JSON schema, and the reference for people, both out of the raw tables.

use schemars::Schema;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::{Map, Value};

use super::raw::RawConfig;

/// JSON Schema of the file, for editors and other programs.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(RawConfig);
    RecursiveTransform(without_null).transform(&mut schema);
    schema.insert("title".to_owned(), Value::from("mailsteer config"));
    schema.to_value()
}

/// TOML has no null: a key that is not needed is left out.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    let Some(Value::Array(choices)) = schema.get_mut("anyOf") else { return };
    choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
    if let [Value::Object(only)] = &choices[..] {
        let only = only.clone();
        schema.remove("anyOf");
        for (key, value) in only {
            schema.ensure_object().entry(key).or_insert(value);
        }
    }
}

/// The reference in Markdown: every table, every key, default and meaning.
#[must_use]
pub fn reference() -> String {
    let schema = schema();
    let mut text = String::from(
        "# Config reference\n\n\
         Made from the doc comments of `agent/core/src/config/raw.rs`; a test keeps it current. \
         `config/default.toml` is the same as a file to start from.\n",
    );
    let parts = [
        ("The file", None),
        ("[host]", Some("Host")),
        ("[nft]", Some("Nft")),
        ("[guard]", Some("Guard")),
        ("[metrics]", Some("Metrics")),
        ("[state]", Some("State")),
        ("[safety]", Some("Safety")),
        ("[dns]", Some("Dns")),
        ("[domain.NAME]", Some("Domain")),
        ("[providers]", Some("Providers")),
        ("[provider.NAME]", Some("Provider")),
        ("[countries]", Some("Countries")),
        ("[log.NAME]", Some("Log")),
        ("[uplink.NAME]", Some("Uplink")),
        ("[pool.NAME]", Some("Pool")),
        ("A source as a table, in `addresses` and `spare`", Some("Source")),
        ("[stream.NAME]", Some("Stream")),
        ("[hook.NAME]", Some("Hook")),
        ("[feed.NAME]", Some("Feed")),
    ];
    for (title, definition) in parts {
        let part = definition.map_or(&schema, |name| &schema["$defs"][name]);
        section(&mut text, title, part);
    }
    text
}

fn section(text: &mut String, title: &str, part: &Value) {
    let title = if title.starts_with('[') { format!("`{title}`") } else { title.to_owned() };
    text.push_str(&format!("\n## {title}\n\n{}\n\n", words(&part["description"])));
    text.push_str("| key | default | meaning |\n|---|---|---|\n");
    let required: Vec<&str> =
        part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let empty = Map::new();
    for (key, value) in part["properties"].as_object().unwrap_or(&empty) {
        let default = match value.get("default") {
            Some(default) => format!("`{default}`"),
            None if required.contains(&key.as_str()) => "needed".to_owned(),
            None => "none".to_owned(),
        };
        text.push_str(&format!(
            "| `{key}` | {default} | {} |\n",
            words(&value["description"]).replace('|', "\\|")
        ));
    }
}

fn words(description: &Value) -> String {
    description.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
