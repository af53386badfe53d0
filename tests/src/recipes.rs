//! The configs of docs/mta-recipes.md, so that what is printed there is what the tests load.
//!
//! Owns: finding them. Must not: change them. Their addresses are the lab's.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Every config in the document as name and text, in its order. A config is a block of TOML whose first line is a
/// comment with its name: `# mailcow.toml`.
///
/// # Errors
/// When the document cannot be read, or a block of TOML has no name.
pub fn all() -> Result<Vec<(String, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mta-recipes.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks
        .map(|block| {
            let name = block.lines().next().and_then(|line| line.strip_prefix("# "));
            let name = name.with_context(|| format!("a config without a name: {block}"))?;
            Ok((name.to_owned(), block.to_owned()))
        })
        .collect()
}

/// One of them.
///
/// # Errors
/// As [`all`], or when there is none of this name.
pub fn config(name: &str) -> Result<String> {
    let found = all()?.into_iter().find(|(known, _)| known == name);
    Ok(found.with_context(|| format!("docs/mta-recipes.md has no {name}"))?.1)
}
