//! What a newcomer sees first: `cargo xtask demo` builds everything and runs this. Needs root.
//!
//! Ends with 0 when every claim of its summary held, 1 when one did not, 130 when it was interrupted.

use std::process::ExitCode;

use mailsteer_tests::demo::{self, interrupt};

fn main() -> ExitCode {
    match demo::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if interrupt::came() => {
            println!("\n\nInterrupted. Everything that the demo made was taken away.");
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("\nThe demo could not go on: {e:#}");
            ExitCode::FAILURE
        }
    }
}
