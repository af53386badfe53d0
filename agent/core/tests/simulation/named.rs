//! Worlds that are to come out as written.

use mailsteer_core::config::OTHER;
use mailsteer_core::decide::EventKind;
use mailsteer_core::model::RefuseReason;

use super::checks;
use super::run::Run;
use super::spec::{How, SourceSpec, Spec, What};

fn whole(spec: &Spec) -> Run<'_> {
    Run::whole(spec).expect("nothing breaks")
}

/// Nobody loses a slot.
fn assert_no_flip(spec: &Spec) {
    let run = whole(spec);
    assert_eq!(run.agent.isolations(), [], "{:?}", run.agent.events);
    assert_eq!(run.tally.refused.len(), 0, "{:?}", run.tally);
    assert!(run.tally.sent.values().sum::<u64>() > 1_000, "there was traffic");
}

#[test]
fn one_dead_destination_flips_nothing() {
    for providers in 0..3 {
        let spec = Spec { providers, ..Spec::plain() };
        assert_no_flip(&spec.with(What::Receiver { provider: 0, receiver: 3 }, 20, 100));
    }
}

/// One address in seven that mail is sent to is dead, and little is sent: who meets three of them one after the other is
/// not at fault.
#[test]
fn many_dead_destinations_flip_nothing() {
    for seed in 0..8 {
        let spec = Spec { seed, providers: 0, receivers: 28, rate: 1.0, lasts: 3_600_000, ..Spec::plain() };
        let dead = |spec: Spec, receiver| spec.with(What::Receiver { provider: 0, receiver }, 0, 3_600);
        assert_no_flip(&(0..4).fold(spec, dead));
    }
}

#[test]
fn a_dead_provider_flips_nothing() {
    for how in How::ALL {
        for seed in 0..8 {
            let spec = Spec { seed, ..Spec::plain() };
            assert_no_flip(&spec.with(What::Provider { provider: 0, how }, 20, 70));
        }
    }
}

/// Many receivers greet after some seconds only, to see whether who connects waits (postscreen, sendmail's GreetPause).
#[test]
fn a_provider_that_takes_its_time_to_turn_all_away_flips_nothing() {
    for how in [How::Greeted, How::Deferred, How::Reset] {
        for greets_after in [300, 2_000, 5_000] {
            let spec = Spec { greets_after, ..Spec::plain() };
            assert_no_flip(&spec.with(What::Provider { provider: 0, how }, 20, 70));
        }
    }
}

/// The same from a single source is its own fault, and is seen as soon as others were greeted.
#[test]
fn a_source_that_is_turned_away_after_a_pause_is_isolated() {
    for greets_after in [20, 300, 5_000] {
        let fault = What::Source { source: 1, provider: Some(0), how: How::Greeted };
        let spec = Spec { greets_after, ..Spec::plain() }.with(fault, 30, 100);
        let run = whole(&spec);
        let isolations = run.agent.isolations();
        assert_eq!(isolations.len(), 1, "{greets_after}: {:?}", run.agent.events);
        let (at, address, provider, _) = &isolations[0];
        assert_eq!((*address, provider.as_str()), (spec.source(1), "p0"));
        // Three failures are told after a pause each, and what others met is clear after two pauses more.
        assert!(*at < 34_000 + 4 * greets_after, "{greets_after}: {at}");
    }
}

#[test]
fn a_resolver_outage_and_the_burst_after_it_flip_nothing() {
    assert_no_flip(&Spec::plain().with(What::NoTraffic, 20, 60));
}

#[test]
fn lost_packets_flip_nothing() {
    for seed in 0..8 {
        let spec = Spec { seed, lasts: 600_000, ..Spec::plain() };
        assert_no_flip(&spec.with(What::Loss(50), 5, 600));
    }
}

#[test]
fn an_hour_of_lost_packets_flips_nothing() {
    let spec = Spec { lasts: 3_600_000, ..Spec::plain() };
    assert_no_flip(&spec.with(What::Loss(50), 0, 3_600));
}

#[test]
fn an_agent_that_stalls_flips_nothing() {
    assert_no_flip(&Spec::plain().with(What::Stall, 20, 30));
    let while_a_receiver_dies = Spec::plain().with(What::Receiver { provider: 1, receiver: 0 }, 15, 60);
    assert_no_flip(&while_a_receiver_dies.with(What::Stall, 20, 30));
}

#[test]
fn a_clock_that_is_set_flips_nothing() {
    for by in [3_600, -3_600] {
        let spec = Spec::plain().with(What::Receiver { provider: 1, receiver: 0 }, 15, 60);
        assert_no_flip(&spec.with(What::Clock(by), 30, 31));
    }
}

#[test]
fn a_silent_source_is_isolated_in_seconds_and_comes_back_with_care() {
    let fault = What::Source { source: 1, provider: None, how: How::Silent };
    let spec = Spec { providers: 0, ..Spec::plain().with(fault, 30, 100) };
    let mut run = Run::new(&spec).expect("a world");
    run.until(120_000).expect("nothing breaks");
    let isolations = run.agent.isolations();
    assert_eq!(isolations.len(), 1, "{:?}", run.agent.events);
    let (at, address, provider, _) = &isolations[0];
    assert_eq!((*address, provider.as_str()), (spec.source(1), OTHER));
    assert!(*at < 33_000, "three of its connections in two SYNs' time: {at}");
    // Five minutes, two probes, and three steps of a minute at least.
    run.until(1_800_000).expect("nothing breaks");
    assert_eq!(
        run.agent.told(1),
        ["isolated", "probation", "probation", "probation", "probation", "healthy"]
    );
    assert!(run.agent.world.belief(spec.source(1)).is_none_or(|(_, verdict)| verdict.portion() == 1_000));
    assert_eq!(run.agent.isolations().len(), 1, "nobody else");
}

#[test]
fn who_fails_again_on_the_way_back_is_sent_away_for_longer() {
    let fault = What::Source { source: 1, provider: None, how: How::Silent };
    let spec = Spec { providers: 0, rate: 5.0, ..Spec::plain().with(fault, 30, 3_000) };
    let mut run = Run::new(&spec).expect("a world");
    run.until(3_000_000).expect("nothing breaks");
    let isolations = run.agent.isolations();
    let times: Vec<i64> = isolations.iter().map(|(at, ..)| at / 60_000).collect();
    // 5 minutes, 10, 20 and two failing probes each time.
    assert_eq!(times.len(), 4, "{times:?}");
    assert!(times.windows(3).all(|w| w[2] - w[1] > (w[1] - w[0]) * 3 / 2), "{times:?}");
    run.until(9_000_000).expect("nothing breaks");
    assert_eq!(run.agent.told(1).last(), Some(&"healthy"));
}

/// Half of a pool, one source on each uplink and each in a network of its own, is refused by one provider.
#[test]
fn half_of_a_pool_refused_by_one_provider_moves_within_surge_and_the_rest_is_refused_there() {
    let fails = |source| What::Source { source, provider: Some(0), how: How::Greeted };
    let spec = Spec { lasts: 300_000, ..Spec::plain().with(fails(0), 60, 300).with(fails(2), 60, 300) };
    let mut run = Run::new(&spec).expect("a world");
    run.until(90_000).expect("nothing breaks");
    let fallen: Vec<_> =
        run.agent.isolations().into_iter().map(|(_, address, provider, _)| (address, provider)).collect();
    assert_eq!(fallen.len(), 2, "{fallen:?}");
    assert!(fallen.iter().all(|(_, provider)| provider == "p0"));
    assert_eq!(run.agent.count("flip-withheld"), 0, "no brake for what a receiver says");
    let before = run.tally.clone();
    run.until(300_000).expect("nothing breaks");
    let sent = |source, provider| {
        let of = |tally: &super::run::Tally| tally.sent.get(&(source, provider)).copied().unwrap_or_default();
        of(&run.tally) - of(&before)
    };
    assert_eq!((sent(0, 0), sent(2, 0)), (0, 0));
    // Of 60 slots 22 each, and 16 refused; elsewhere a quarter each. 1,400 connections: 5 standard deviations are 90.
    let near = |count: u64, share: f64| (count as f64 - 1_400.0 * share).abs() < 130.0;
    assert!(near(sent(1, 0), 22.0 / 60.0) && near(sent(3, 0), 22.0 / 60.0), "{:?}", run.tally);
    assert!(near(run.tally.refused[&(RefuseReason::Surge, 0)], 16.0 / 60.0), "{:?}", run.tally);
    for source in 0..4 {
        assert!(near(sent(source, 1), 0.25) && near(sent(source, 2), 0.25), "{:?}", run.tally);
    }
    assert!(run.tally.refused.keys().all(|(_, provider)| *provider == 0), "{:?}", run.tally);
}

#[test]
fn an_uplink_that_answers_nothing_takes_its_sources_together() {
    let spec = Spec::plain().with(What::Uplink(1), 30, 120);
    let mut run = whole(&spec);
    let fallen: Vec<_> =
        run.agent.isolations().into_iter().map(|(_, address, ..)| spec.source_of(address)).collect();
    assert!(fallen.contains(&2) && fallen.contains(&3), "{:?}", run.agent.events);
    assert!(fallen.iter().all(|&source| source >= 2), "{:?}", run.agent.events);
    // The other uplink carries on.
    assert!(
        run.tally.sent.iter().filter(|((source, _), _)| *source < 2).map(|(_, n)| n).sum::<u64>() > 1_200
    );
    run.until_all_are_back().expect("its sources come back by themselves");
}

#[test]
fn a_host_that_is_cut_off_isolates_nobody_and_goes_on_by_itself() {
    let spec = Spec::plain().with(What::Uplink(0), 30, 60).with(What::Uplink(1), 30, 60);
    let run = whole(&spec);
    assert_eq!(run.agent.isolations(), [], "{:?}", run.agent.events);
    let both_down = Spec::plain().with(What::Link(0), 30, 60).with(What::Link(1), 31, 61);
    let run = whole(&both_down);
    assert_eq!(run.agent.isolations(), [], "{:?}", run.agent.events);
    let refused = run.tally.refused.keys().map(|(reason, _)| *reason).collect::<Vec<_>>();
    assert!(refused.iter().all(|reason| *reason == RefuseReason::Exhausted) && !refused.is_empty());
    let serve = (0..4).all(|n| both_down_serves(&run, &both_down, n));
    assert!(serve, "{:?}", run.agent.events);
}

fn both_down_serves(run: &Run<'_>, spec: &Spec, source: usize) -> bool {
    run.agent.world.ineligible(spec.source(source)).is_none()
}

/// No slot leads to a dead address: that is checked after every step of every world.
#[test]
fn a_link_that_flaps_every_two_seconds_is_let_back_later_each_time() {
    let spec = Spec { lasts: 600_000, ..Spec::plain() }.flapping(1, 30, 150);
    let mut run = Run::new(&spec).expect("a world");
    run.until(150_000).expect("nothing breaks");
    let flips = |run: &Run<'_>| {
        let of =
            |event: &EventKind| matches!(event, EventKind::SourceEligible { source, .. } if source == "s2");
        run.agent.events.iter().filter(|(_, event)| of(&event.kind)).count()
    };
    assert!(flips(&run) <= 2, "60 flaps, and it was let back {} times", flips(&run));
    run.until(600_000).expect("nothing breaks");
    assert!(both_down_serves(&run, &spec, 2), "it is back: {:?}", run.agent.events.last());
}

#[test]
fn three_sources_of_a_network_take_the_rest_with_them_and_nothing_of_it_is_moved() {
    let source = |n: u8| SourceSpec { network: n / 4, ..SourceSpec::PLAIN };
    let fault = What::Network { network: 0, provider: 0, how: How::Greeted };
    let spec = Spec { sources: (0..8).map(source).collect(), uplinks: 1, ..Spec::plain() };
    let spec = Spec { rate: 40.0, ..spec.with(fault, 30, 120) };
    let run = whole(&spec);
    assert_eq!(run.agent.count("network-isolated"), 1, "{:?}", run.agent.events);
    let fallen: Vec<_> =
        run.agent.isolations().into_iter().map(|(_, address, ..)| spec.source_of(address)).collect();
    assert!((0..4).all(|n| fallen.contains(&n)) && fallen.len() == 4, "{fallen:?}");
    assert!(run.tally.refused.keys().all(|key| *key == (RefuseReason::Surge, 0)), "{:?}", run.tally);
    // Half of what goes there in 87 s is 580; were it moved as far as siblings may take it, 290.
    assert!(run.tally.refused[&(RefuseReason::Surge, 0)] > 450, "{:?}", run.tally);
}

/// Twelve sources of one network, of which three get no answer: a quarter of the pool may fall, and not all of it.
#[test]
fn silence_takes_no_more_of_a_network_than_the_brake_lets() {
    let fails = |source| What::Source { source, provider: Some(0), how: How::Silent };
    let sources = vec![SourceSpec::PLAIN; 12];
    let spec = Spec { sources, uplinks: 1, rate: 40.0, ..Spec::plain() };
    let spec = (0..3).fold(spec, |spec, source| spec.with(fails(source), 30, 120));
    let run = whole(&spec);
    let fallen: Vec<_> =
        run.agent.isolations().into_iter().map(|(_, address, ..)| spec.source_of(address)).collect();
    assert!(fallen.len() == 3 && fallen.iter().all(|&source| source < 3), "{fallen:?}");
    assert_eq!(run.agent.count("network-isolated"), 0);
}

#[test]
fn a_spare_takes_over_and_hands_back_after_probation() {
    let source = |n: u8| SourceSpec { network: n, spare: n == 1, ..SourceSpec::PLAIN };
    let fault = What::Source { source: 0, provider: Some(0), how: How::Greeted };
    let spec = Spec { sources: (0..2).map(source).collect(), uplinks: 1, providers: 1, ..Spec::plain() };
    let spec = spec.with(fault, 30, 120);
    let mut run = Run::new(&spec).expect("a world");
    run.until(120_000).expect("nothing breaks");
    assert_eq!(run.agent.isolations().len(), 1, "{:?}", run.agent.events);
    let spare = |run: &Run<'_>| run.tally.sent.get(&(1, 0)).copied().unwrap_or_default();
    assert!(spare(&run) > 500, "{:?}", run.tally);
    assert_eq!(run.tally.sent.get(&(1, 1)), None, "nowhere else");
    // Half an hour, two probes, and steps of which the small ones wait for an hour where little is sent.
    run.until(4 * 3_600_000).expect("nothing breaks");
    let then = spare(&run);
    run.until(4 * 3_600_000 + 60_000).expect("nothing breaks");
    assert_eq!((spare(&run), run.agent.told(0).last()), (then, Some(&"healthy")), "{:?}", run.agent.told(0));
}

/// How often sources are isolated with which nothing is wrong, while this goes on: in how many source hours, how many. The
/// figures in the judge's documentation are of `MAILSTEER_HOURS=800`.
fn false_alarms(what: &What) -> (u64, usize) {
    let hours = std::env::var("MAILSTEER_HOURS").ok().and_then(|hours| hours.parse().ok()).unwrap_or(80_u64);
    let mut alarms = 0;
    for seed in 0..hours / 4 {
        let spec = Spec { seed, lasts: 3_600_000, ..Spec::plain() }.with(what.clone(), 0, 3_600);
        let run = whole(&spec);
        let (by_chance, others) = checks::innocent(&spec, &run.agent);
        assert_eq!(others, Vec::<String>::new());
        alarms += by_chance;
    }
    println!("{what:?}: {alarms} isolations of innocent sources in {hours} source hours of 5/s each");
    (hours, alarms)
}

/// 1 in 800 hours was measured: as many as it allows here, 80 hours have more with a chance of 4 in a million. The seeds are
/// always the same, so that only a change of the code draws again.
#[test]
fn false_alarms_by_loss_are_rare() {
    let (hours, alarms) = false_alarms(&What::Loss(50));
    assert!(alarms <= 3 || hours > 80, "{alarms}");
}

/// 14 in 800 hours were measured: 80 hours have more than 8 with a chance of 2 in 100,000.
#[test]
fn false_alarms_by_refusals_are_rare() {
    let (hours, alarms) = false_alarms(&What::Refusals(10));
    assert!(alarms <= 8 || hours > 80, "{alarms}");
}
