//! The config file: any text, on a host that has what configs name.

use mailsteer_core::config::{CODES, Checked, HostView, Problem};

use crate::init::a_host;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let ids = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).zip(100..).collect();
    let away = HostView::default();
    let here = HostView {
        users: ids(&["postfix", "www-data", "news"]),
        groups: ids(&["mail", "adm"]),
        host: Some(a_host()),
        ..HostView::default()
    };
    let first = mailsteer::cli::fuzzing::config(text, &here);
    holds(text, &first);
    // Read again, as a reload does, it says the same.
    let again = mailsteer::cli::fuzzing::config(text, &here);
    assert_eq!(first.config, again.config);
    holds(text, &mailsteer::cli::fuzzing::config(text, &away));
}

/// Either a config without an error, or errors; each has a place in the file, words and a known code.
fn holds(text: &str, checked: &Checked) {
    let errors = checked.problems.iter().any(Problem::is_error);
    assert_eq!(checked.config.is_none(), errors, "{:?}", checked.problems);
    for problem in &checked.problems {
        assert!(!problem.message.is_empty() && CODES.contains(&problem.code), "{problem:?}");
        for label in &problem.labels {
            assert!(label.start <= label.end && label.end <= text.len(), "{problem:?}");
            assert!(label.line >= 1 && label.column >= 1, "{problem:?}");
            assert!(text.get(label.start..label.end).is_some(), "within a character: {problem:?}");
        }
    }
    if let Some(config) = &checked.config {
        let sources = config.pools.values().flat_map(|pool| &pool.sources);
        for source in sources {
            assert_eq!(source.local.is_ipv4(), source.public.is_ipv4(), "{source:?}");
            assert!(source.uplink.is_none_or(|at| at < config.uplinks.len()), "{source:?}");
        }
        for stream in &config.streams {
            assert!(config.pools.contains_key(&stream.pool), "{stream:?}");
        }
        assert!(!config.ports.is_empty() && !config.ports.contains(&0));
    }
}
