//! Man pages and shell completions from the one definition of the command line: `cargo xtask man` runs it with the
//! folder to write to. Not a command of the program: nobody needs it where mailsteer runs.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("usage: cli-docs FOLDER")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let mut program = mailsteer::cli::args::Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program, "mailsteer", folder)?;
    }
    // `help` explains the others, which have pages of their own.
    let mut program = mailsteer::cli::args::Cli::command().disable_help_subcommand(true);
    program.build();
    page(&program, "mailsteer", folder)?;
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        page(command, &format!("mailsteer-{}", command.get_name()), folder)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, folder: &Path) -> Result<()> {
    let named = command.clone().name(&*name.to_owned().leak());
    let mut text = Vec::new();
    Man::new(named).title(name.to_uppercase()).date("").manual("mailsteer").render(&mut text)?;
    let path = folder.join(format!("{name}.1"));
    fs::File::create(&path)
        .and_then(|mut file| file.write_all(&text))
        .with_context(|| path.display().to_string())
}
