//! One target under libFuzzer: `MAILSTEER_FUZZ` names it. One program for all of them, for each has the whole agent
//! in it.
#![no_main]

use std::sync::OnceLock;

use mailsteer_fuzz::Target;

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("MAILSTEER_FUZZ").unwrap_or_default();
        let Some(target) = mailsteer_fuzz::target(&name) else {
            eprintln!("MAILSTEER_FUZZ names no target: {:?}", mailsteer_fuzz::names());
            std::process::exit(2);
        };
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
