//! The configs of docs/mta-recipes.md, so that what is printed there is what the tests load.
//!
//! Owns: finding them. Must not: change them. Their addresses are the lab's.

use std::path::Path;

use anyhow::{Context as _, Result};

/// A file that the document prints: a block whose first line is a comment with its name, such as `# mailcow.toml`.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The document's section.
    pub section: String,
    /// What it is called.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Every file in the document, in its order.
///
/// # Errors
/// When the document cannot be read, or a block has no name.
pub fn all() -> Result<Vec<Recipe>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mta-recipes.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut found = Vec::new();
    for section in text.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        // Every second part is inside a block; its first line is how the block is marked.
        for block in section.split("\n```").skip(1).step_by(2) {
            let (_, text) = block.split_once('\n').unwrap_or_default();
            let name =
                text.lines().next().and_then(|line| line.trim_start_matches("dnl ").strip_prefix("# "));
            let name = name.with_context(|| format!("a file without a name: {text}"))?.to_owned();
            found.push(Recipe { section: title.to_owned(), name, text: format!("{text}\n") });
        }
    }
    Ok(found)
}

/// The names of those in one section.
///
/// # Errors
/// As [`all`].
pub fn names(section: &str) -> Result<Vec<String>> {
    Ok(all()?.into_iter().filter(|recipe| recipe.section == section).map(|recipe| recipe.name).collect())
}

/// What stands in one of them.
///
/// # Errors
/// As [`all`], or when there is none of this name.
pub fn config(name: &str) -> Result<String> {
    let found = all()?.into_iter().find(|recipe| recipe.name == name);
    Ok(found.with_context(|| format!("docs/mta-recipes.md has no {name}"))?.text)
}
