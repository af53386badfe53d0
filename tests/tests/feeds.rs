//! Feeds, end to end: a table of SNDS is fetched, a bad word moves nothing and holds a return, and the key shows nowhere.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mailsteer_tests::listserver::{AT as LISTS, ListServer};
use mailsteer_tests::scene::{CONFIG, METRICS};
use mailsteer_tests::webserver::{Asked, WebServer};
use mailsteer_tests::{Options, Scene, poll};

const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9097);
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
const SHOWN: Duration = Duration::from_secs(20);
/// A list is asked each minute, and clears after three rounds.
const CLEARED: Duration = Duration::from_secs(300);
/// A feed is read each minute here, and a tenth of that more.
const READ: Duration = Duration::from_secs(80);
/// IPv6 sources, as they stand in a URL.
const V6: [&str; 4] =
    ["2001%3Adb8%3Aa%3A%3A11", "2001%3Adb8%3Aa%3A%3A12", "2001%3Adb8%3Ab%3A%3A21", "2001%3Adb8%3Ab%3A%3A22"];
const KEY: &str = "s3cret key";

/// A table in which the first source has this colour, as of now.
fn table(colour: &str) -> String {
    let now = jiff::Timestamp::now().strftime("%m/%d/%Y %I:%M %p");
    format!(
        "192.0.2.11,{now},{now},1200,1100,1190,{colour},0.4%,,,3,mail.example.com,a@example.com,\"comma, quote\"\r\n\
         192.0.2.12,{now},{now},500,490,495,GREEN,< 0.1%,,,0,,,\r\n"
    )
}

fn state(scene: &Scene) -> String {
    let rows = scene.agent.json(&["sources"]).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "main-1").unwrap().clone();
    row["state"].as_str().unwrap().to_owned()
}

fn eventually(scene: &Scene, within: Duration, words: &str) {
    poll::until(within, words, || Ok(scene.events()?.contains(words).then_some(()))).unwrap();
}

#[test]
fn a_red_source_keeps_its_share_and_does_not_come_back_from_isolation() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let (server, lists) =
        (WebServer::start(&scene.lab.mail, AT).unwrap(), ListServer::start(&scene.lab.mail).unwrap());
    let key = scene.lab.dir().join("feed.key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    server.answer("/data", 200, &table("RED"));
    server.answer("/status", 200, "192.0.2.1,192.0.2.10,No,\r\n");
    let before = scene.agent.json(&["explain", "--uid", "1001", "203.0.113.1"]).unwrap();
    let config = format!(
        "{CONFIG}\n[lists]\nresolver = \"{LISTS}\"\nnames = [\"zen.spamhaus.org\"]\ninterval_minutes = 1\n\
         [feed.snds]\nkind = \"snds\"\nurl = \"http://{AT}/data?key={{key}}\"\nstatus_url = \"http://{AT}/status?key={{key}}\"\n\
         key_file = \"{}\"\ninterval_minutes = 1\n\
         [feed.score]\nkind = \"json\"\nurl = \"http://{AT}/ip/{{address}}\"\nkey_file = \"{}\"\nkey_header = \"X-Key\"\n\
         pointer = \"/score\"\ngood = 80\nbad = 50\n",
        key.display(),
        key.display()
    );
    server.answer("/ip/192.0.2.12", 200, "{\"score\": 90}");
    for address in ["192.0.2.15", "198.51.100.21", "198.51.100.22"].into_iter().chain(V6) {
        server.answer(&format!("/ip/{address}"), 200, "{\"score\": \"60 %\"}");
    }
    // Nothing is known of it.
    server.answer("/ip/192.0.2.11", 404, "");
    scene.agent.reload(&config).unwrap();

    // Said everywhere, and nothing moves.
    eventually(&scene, SHOWN, "snds says of main-1 (192.0.2.11)");
    // An event is told while what it is about is still being published.
    poll::until_true(SHOWN, "status to say so", || {
        let status = scene.status().unwrap();
        status.contains("feed snds says of main-1") && status.contains("RED, complaints 0.4%")
    })
    .unwrap();
    scene.await_metric("mailsteer_source_feed_bad", &["source=\"main-1\""], 1.0).unwrap();
    assert_eq!(scene.metric("mailsteer_source_feed_bad", &["source=\"main-2\""]).unwrap(), 0.0);
    assert_eq!(state(&scene), "healthy");
    let after = scene.agent.json(&["explain", "--uid", "1001", "203.0.113.1"]).unwrap();
    assert_eq!(after, before, "a late word moved something");
    let asked = |path: &str, header: Option<&str>| {
        let is_it = |one: &Asked| one.path == path && one.headers.get("x-key").map(String::as_str) == header;
        server.asked().iter().any(is_it)
    };
    poll::until_true(SHOWN, "the key in the URL", || asked("/data?key=s3cret%20key", None)).unwrap();
    let last = format!("/ip/{}", V6[3]);
    poll::until_true(SHOWN, "the key in a header", || asked(&last, Some(KEY))).unwrap();

    // Isolated for another reason, and that is over: it does not come back while the feed says RED.
    lists.publish(SOURCE);
    eventually(&scene, Duration::from_secs(95), "main-1 (192.0.2.11) at every provider: healthy -> isolated");
    lists.withdraw(SOURCE);
    eventually(&scene, CLEARED, "main-1 (192.0.2.11) stays isolated at every provider: snds says RED");
    assert_eq!(state(&scene), "isolated");

    // A feed that fails changes nothing; one that has a better word lets it begin.
    server.answer("/data", 500, "s3cret key");
    let count = server.asked().len();
    poll::until(READ, "another look", || Ok((server.asked().len() > count).then_some(()))).unwrap();
    assert_eq!(state(&scene), "isolated");
    server.answer("/data", 200, &table("YELLOW"));
    eventually(&scene, READ, "snds says of main-1 (192.0.2.11) now: YELLOW");
    eventually(&scene, SHOWN, "main-1 (192.0.2.11) at every provider: isolated -> probation");

    let shown = [
        scene.agent.log().unwrap(),
        scene.status().unwrap(),
        scene.events().unwrap(),
        scene.agent.metrics(METRICS).unwrap(),
        scene.agent.json(&["status"]).unwrap().to_string(),
    ];
    assert!(shown.iter().all(|text| !text.contains("s3cret")), "the key shows");
    drop((server, lists));
    scene.close().unwrap();
}
