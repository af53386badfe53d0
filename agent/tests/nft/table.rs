//! The table as a whole, and its elements: owner, strangers, reloads, flips, size.

use super::*;

#[test]
fn an_owned_table_outlives_flush_and_owner() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        assert!(table.owned(), "this kernel takes owner and persist");
        steered().apply(&mut table).await;
        let before = reading::read().await.unwrap().unwrap();
        sh("nft flush ruleset; ! nft add chain inet mailsteer x 2>/dev/null");
        assert_eq!(reading::read().await.unwrap().unwrap(), before);
        drop(table);
        assert!(!reading::read().await.unwrap().unwrap().owned);
        let mut table = open(OwnTable::Auto);
        let adopted = reading::read().await.unwrap().unwrap();
        assert_eq!(adopted, before, "adopted as it stood");
        assert!(matches!(Table::open(OwnTable::Auto, Ours::default()), Err(Error::OwnedByOther(_))));
        connect_as(USER, WORLD[0], 25).unwrap();
        let mut bad = steered();
        bad.spec.uplinks = vec!["name-that-is-too-long-for-an-interface".into()];
        let error = table.apply(&bad.spec, bad.elements()).await.unwrap_err();
        assert!(matches!(error, Error::Nft(_)), "{error:?}");
        assert!(table.owned());
        assert_eq!(reading::read().await.unwrap().unwrap(), before, "a bad reload leaves the old rules");
        connect_as(USER, WORLD[0], 25).unwrap();
        assert_eq!(tally(lab.seen()).values().sum::<usize>(), 2);
        table.teardown().await.unwrap();
        assert_eq!(sh("nft list tables"), "");
    });
}

#[test]
fn the_watch_names_strangers_and_not_us() {
    lab(async |_| {
        let ours = Ours::default();
        let mut watch = Watch::open(ours.clone()).unwrap();
        let mut table = Table::open(OwnTable::Never, ours).unwrap();
        assert!(!table.owned());
        let setup = steered();
        setup.apply(&mut table).await;
        let change = SlotChange { lane: LANE, family: Family::V4, slot: 0, from: source(1), to: source(3) };
        table.flip(&BTreeMap::new(), &[change], &BTreeMap::new()).await.unwrap();
        let before = reading::read().await.unwrap().unwrap().fingerprint;
        let mut child = std::process::Command::new("nft")
            .args(["insert", "rule", "inet", "mailsteer", "output", "accept"])
            .spawn()
            .unwrap();
        assert!(child.wait().unwrap().success());
        let seen = watch.next().await.unwrap();
        assert_eq!(seen.what, "rule added to chain output");
        assert_eq!((seen.pid, seen.program.as_deref()), (Some(child.id()), Some("nft")));
        assert_ne!(reading::read().await.unwrap().unwrap().fingerprint, before);
        setup.apply(&mut table).await;
        sh("nft flush ruleset");
        assert!(watch.next().await.unwrap().what.contains("table deleted"));
        assert_eq!(reading::read().await.unwrap(), None);
        setup.apply(&mut table).await;
        sh("nft 'delete chain inet mailsteer verify; add chain inet mailsteer verify { type filter hook input priority 0; }
            add chain inet mailsteer mine { type filter hook output priority 5; policy drop; }'");
        setup.apply(&mut table).await;
        connect_as(USER, WORLD[0], 25).unwrap();
    });
}

#[test]
fn a_reload_refuses_nothing_and_forgets_no_count() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let setup = steered();
        setup.apply(&mut table).await;
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let load = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            as_user(USER, move || {
                let mut results = Vec::new();
                // Ends when the reloads do and the sender goes.
                while results.len() < 600 || stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    results.push(connect_bound(None, 0, WORLD[results.len() % 2]).map(drop));
                }
                results
            })
        });
        for _ in 0..20 {
            setup.apply(&mut table).await;
        }
        drop(stop);
        let results = load.join().unwrap();
        assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
        let seen = tally(lab.seen());
        assert!(!seen.keys().any(|address| PRIMARY.contains(&address.as_str())), "{seen:?}");
        let refuse = SlotTarget::Refuse(RefuseReason::Exhausted);
        setup_refusing(refuse).apply(&mut table).await;
        connect_as(USER, WORLD[0], 25).unwrap_err();
        setup.apply(&mut table).await;
        assert_eq!(counted(Counter::Refused(LANE, RefuseReason::Exhausted)).await, 1, "kept over the reload");
    });
}

fn setup_refusing(target: SlotTarget) -> Setup {
    setup().users(Steering::Enforce, &[target], &[target])
}

#[test]
fn a_flip_moves_slots_and_translations_or_says_that_belief_was_wrong() {
    lab(async |lab| {
        let mut table = open(OwnTable::Auto);
        let mut setup = setup().users(Steering::Enforce, &[source(1)], &[]);
        setup.sources.retain(|id, _| id.0 == 1);
        setup.apply(&mut table).await;
        let add = BTreeMap::from([(SourceId(9), "192.0.2.14".parse().unwrap())]);
        let remove = setup.sources.clone();
        let change = SlotChange { lane: LANE, family: Family::V4, slot: 0, from: source(1), to: source(9) };
        table.flip(&add, &[change], &remove).await.unwrap();
        connect_as(USER, WORLD[0], 25).unwrap();
        assert_eq!(tally(lab.seen()), BTreeMap::from([("192.0.2.14".to_owned(), 1)]));
        let standing = reading::read().await.unwrap().unwrap().contents;
        assert_eq!(standing.translations, add);
        assert_eq!(standing.slots[&(LANE, Family::V4)], Slots(vec![source(9)]));
        let wrong = table.flip(&BTreeMap::new(), &[change], &BTreeMap::new()).await.unwrap_err();
        assert!(matches!(wrong, Error::Belief(_)), "{wrong:?}");
        let wrong = table.flip(&BTreeMap::new(), &[], &remove).await.unwrap_err();
        assert!(matches!(wrong, Error::Belief(_)), "{wrong:?}");
        assert_eq!(reading::read().await.unwrap().unwrap().contents, standing, "nothing was changed");
        let moved = BTreeMap::from([(SourceId(9), "192.0.2.13".parse().unwrap())]);
        table.flip(&moved, &[], &BTreeMap::new()).await.unwrap();
        assert_eq!(reading::read().await.unwrap().unwrap().contents.translations, moved);
    });
}

#[test]
fn a_quarter_of_a_million_slots_are_fine() {
    lab(async |_| {
        let mut table = open(OwnTable::Auto);
        let slots: Vec<_> = (0..4096).map(|n| source(1 + n % 4)).collect();
        let mut setup = setup();
        for uid in 0..64 {
            let matches = LaneMatch { uids: vec![uid], ..LaneMatch::default() };
            setup = setup.lane(matches, Steering::Enforce, &slots, &[]);
        }
        let begun = Instant::now();
        setup.apply(&mut table).await;
        let applied = begun.elapsed();
        let begun = Instant::now();
        let standing = reading::read().await.unwrap().unwrap();
        let read = begun.elapsed();
        assert_eq!(standing.contents.slots.values().map(|slots| slots.0.len()).sum::<usize>(), 262_144);
        let changes: Vec<_> = (1..=32_u8)
            .flat_map(|lane| (0..4096).map(move |slot| (LaneId(lane), slot)))
            .map(|(lane, slot)| SlotChange {
                lane,
                family: Family::V4,
                slot,
                from: source(1 + slot % 4),
                to: source(1 + (slot + 1) % 4),
            })
            .collect();
        let begun = Instant::now();
        table.flip(&BTreeMap::new(), &changes, &BTreeMap::new()).await.unwrap();
        eprintln!("262,144 slots: applied {applied:?}, read {read:?}, half flipped {:?}", begun.elapsed());
    });
}
