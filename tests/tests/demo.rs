//! The demo itself: it is what a newcomer sees first, so it has to hold.

use std::process::Command;

#[test]
fn it_holds_and_leaves_nothing_behind() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(!text.contains('\x1b'), "no terminal codes on a pipe:\n{said}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{said}");
    let claim = |name: &str| {
        let line = text.lines().rfind(|line| line.trim_start().starts_with(name)).expect(name);
        let mut words = line.split_whitespace().rev();
        assert_eq!(words.next(), Some("ok"), "{name}\n{said}");
        words.next().unwrap().to_owned()
    };
    for name in [
        "moves: connections failed",
        "flush, guard alone: failed",
        "messages deferred",
        "wrong addresses on the wire",
        "packets that the capture missed",
        "left behind on this machine",
    ] {
        assert_eq!(claim(name), "0", "{name}\n{said}");
    }
    assert!(claim("messages delivered").parse::<u32>().unwrap() >= 400, "{said}");
    assert!(text.contains("Everything held."), "{said}");
}
