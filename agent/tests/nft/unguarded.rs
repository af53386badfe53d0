//! What the rules count where no eBPF program does.

use super::*;

#[test]
fn without_a_guard_the_rules_count_each_lane_and_source_and_name_their_lanes() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let mut wanted = setup()
            .users(Steering::Enforce, &[source(1), source(2)], &[source(5), source(6)])
            .lane(LaneMatch::default(), Steering::Observe, &[], &[]);
        wanted.spec.guarded = false;
        wanted.apply(&mut table).await;
        for to in WORLD {
            for _ in 0..4 {
                connect_as(USER, to, 25).unwrap();
            }
            connect_as(0, to, 25).unwrap();
        }
        let seen = tally(lab.seen());
        assert_eq!(seen.values().sum::<usize>(), 10, "{seen:?}");
        let pair = |lane, source| nftnl::Pair { lane, source };
        let steered = [(pair(1, 1), 2), (pair(1, 2), 2), (pair(1, 5), 2), (pair(1, 6), 2)];
        let expected: BTreeMap<_, u64> = steered.into_iter().chain([(pair(2, 0), 2)]).collect();
        let counted = async |set| -> BTreeMap<_, u64> {
            let pairs = reading::counters().await.unwrap().pairs.remove(&set).unwrap();
            pairs.into_iter().map(|(pair, counted)| (pair, counted.packets)).collect()
        };
        assert_eq!(counted(PairSet::Attempted).await, expected);
        assert_eq!(counted(PairSet::Established).await, expected);
        assert_eq!(counted(PairSet::Refused).await, BTreeMap::new());
        let bytes = reading::counters().await.unwrap().pairs;
        // A SYN, an ACK and a FIN or a reset, each of 40 bytes at least.
        assert!(bytes[&PairSet::Sent][&pair(1, 1)].bytes >= 2 * 3 * 40, "{bytes:?}");
        assert!(bytes[&PairSet::Received][&pair(1, 5)].bytes >= 2 * 2 * 60, "{bytes:?}");

        // Written again, by another agent too, nothing is forgotten; and it finds whose numbers those are.
        wanted.apply(&mut table).await;
        drop(table);
        let mut table = open(OwnTable::Auto);
        assert_eq!(counted(PairSet::Attempted).await, expected);
        let numbers = table.numbers().unwrap();
        assert_eq!(numbers.sources, wanted.sources);
        let name = |n: u8| (LaneId(n), (format!("stream{n}"), "other".to_owned()));
        assert_eq!(numbers.lanes, [name(1), name(2)].into());
    });
}

#[test]
fn without_a_guard_a_refusal_and_a_syn_sent_again_count_once() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let mut wanted = steered();
        wanted.spec.guarded = false;
        wanted.spec.ports = vec![25, 27];
        wanted.apply(&mut table).await;
        // Nobody listens at port 27, and the world says so.
        for to in WORLD {
            let refused = connect_within(USER, to, 27, Duration::from_secs(3)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        // A world that says nothing is asked again, by the same connection.
        lab.world.run(|| {
            sh("nft 'add table inet w; add chain inet w in { type filter hook input priority 0; }
                     add rule inet w in tcp dport 25 drop'")
        });
        connect_within(USER, WORLD[0], 25, Duration::from_millis(2500)).unwrap_err();
        // Dropped on this host after the choice: nothing left, so nothing was attempted.
        sh("nft 'add table inet s; add chain inet s post { type filter hook postrouting priority 200; }
                 add rule inet s post tcp dport 25 drop'");
        connect_within(USER, WORLD[0], 25, Duration::from_millis(1500)).unwrap_err();
        let pairs = reading::counters().await.unwrap().pairs;
        let sum = |set| pairs[&set].values().map(|counted| counted.packets).sum::<u64>();
        assert_eq!((sum(PairSet::Attempted), sum(PairSet::Refused), sum(PairSet::Established)), (3, 2, 0));
        assert!(sum(PairSet::Sent) > 3, "the SYN was sent again");
    });
}
