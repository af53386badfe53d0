//! A source that fails loses its traffic within seconds, whatever fails: each fault once, with limits that a busy machine keeps.
//! Figures are `lab-failover`'s.

use mailsteer_tests::failover::{Fault, Place};

/// Milliseconds, some times what was measured: 160 for a refusal, 1,450 for silence, 40 for a fact.
const fn limit(fault: Fault) -> f64 {
    match fault {
        Fault::Silent => 8_000.0,
        Fault::Refused | Fault::Greeting => 4_000.0,
        Fault::AddressRemoved | Fault::LinkDown => 3_000.0,
    }
}

#[test]
fn every_fault_moves_the_sources_traffic_within_seconds() {
    let mut place = Place::new(0).unwrap();
    for fault in Fault::ALL {
        let trial = place.trial(fault).unwrap();
        println!("{fault:?}: {trial:?}");
        assert!(trial.flip_ms < limit(fault), "{fault:?}: {trial:?}");
        // Pending connections take another source with their next SYN: the MTA notices nothing.
        if fault == Fault::Silent {
            assert!(trial.carried_over > 0 && trial.deferred == 0, "{trial:?}");
        }
    }
    place.close().unwrap();
}
