//! Tables of providers, names of mail servers, and databases of countries: any bytes at all.

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::Problem;
use mailsteer_core::signal::providers::{
    Claim, Groups, KeptHost, Learner, LearnerPace, NameAnswer, Pattern, ProviderTable, Wanted,
};

/// Reads it as a table, and each of its lines as a pattern and as a name out of a log: nothing is learned that no answer said.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let checked = ProviderTable::load("fuzz", &text);
    assert_eq!(checked.table.is_some(), !checked.problems.iter().any(Problem::is_error));
    let mut groups = Groups::default();
    for line in text.lines() {
        let Ok(pattern) = Pattern::read(line) else { continue };
        assert_eq!(Pattern::read(&pattern.to_string()), Ok(pattern.clone()), "it is read as it is written");
        let _anothers = groups.add(pattern, "group");
    }
    let pace = LearnerPace { interval: SignedDuration::from_hours(1), per_minute: 60 };
    let kept: Vec<KeptHost> = serde_json::from_slice(data).unwrap_or_default();
    let known: usize = kept.iter().map(|host| host.addresses.len()).sum();
    let wanted = Wanted { groups, domains: vec![], pace };
    let mut learner = Learner::new(wanted, kept, (7, Timestamp::UNIX_EPOCH));
    for host in text.lines().map(str::to_owned) {
        learner.claim(&Claim { host, address: [192, 0, 2, 1].into() }, Timestamp::UNIX_EPOCH);
    }
    for query in learner.due(Timestamp::UNIX_EPOCH) {
        learner.answered(&query, &NameAnswer::Nothing, Timestamp::UNIX_EPOCH);
    }
    assert!(learner.learned().len() <= known);
}

/// Reads it as a database: networks or words.
pub(crate) fn countries(data: &[u8]) {
    let codes = ["DE", "FR"].map(str::to_owned).into();
    match mailsteer::observe::countries::of_bytes(data.to_vec(), &codes) {
        Ok(found) => assert_eq!(found.len(), 2),
        Err(why) => assert!(!why.is_empty() && !why.contains("nobody expected"), "{why}"),
    }
}
