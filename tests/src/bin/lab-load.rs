//! Makes connections from the mail host, as another user: `lab-load '{"rate": 500, ...}'`, answers in JSON.
//!
//! Ends when its count is reached, or when its standard input closes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mailsteer_tests::load::{Load, Report};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Longer than a first SYN that is answered takes, and shorter than the second one waits (RFC 6298: 1 s).
const LATE: Duration = Duration::from_millis(900);

/// What one connection sends and gets back, again and again.
const PATTERN: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijklmnop\n";
const PACE: Duration = Duration::from_millis(50);

struct Done {
    local: Option<IpAddr>,
    connected: Option<Duration>,
    error: Option<String>,
    round_trips: u64,
    stall: Duration,
}

fn main() -> Result<()> {
    let load: Load = serde_json::from_str(&std::env::args().nth(1).context("what is to be done?")?)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    // Before the first socket: the kernel remembers who made it.
    setgroups(&[])?;
    setgid(Gid::from_raw(load.gid))?;
    setuid(Uid::from_raw(load.uid))?;
    let report = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(load));
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// True once standard input has closed.
fn stop_signal() -> watch::Receiver<bool> {
    let (tell, told) = watch::channel(false);
    std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        tell.send(true).ok();
    });
    told
}

async fn run(load: Load) -> Report {
    let (sender, receiver) = mpsc::unbounded_channel();
    let stop = stop_signal();
    let load = Arc::new(load);
    let collector = tokio::spawn(collect(receiver));
    let began = Instant::now();
    if load.parallel > 0 {
        one_after_the_other(&load, &sender, &stop).await;
    } else {
        at_a_rate(&load, &sender, &stop, began).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(sender);
    let mut report = collector.await.unwrap_or_default();
    report.seconds = seconds;
    report
}

async fn at_a_rate(
    load: &Arc<Load>,
    sender: &mpsc::UnboundedSender<Done>,
    stop: &watch::Receiver<bool>,
    began: Instant,
) {
    let live = load.live > 0;
    let rate = if live { 1000 } else { load.rate.max(1) };
    let count = if live { u64::from(load.live) } else { load.count };
    let mut started = 0u64;
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    while (count == 0 || started < count) && !*stop.borrow() {
        tick.tick().await;
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64 + 1;
        while started < due && (count == 0 || started < count) {
            let (load, sender, stop) = (Arc::clone(load), sender.clone(), stop.clone());
            let to = load.to[started as usize % load.to.len()];
            tokio::spawn(async move {
                let done = if live { hold_live(&load, to, stop).await } else { one(&load, to).await };
                sender.send(done).ok();
            });
            started += 1;
        }
    }
}

/// As many at a time as `parallel` says.
async fn one_after_the_other(
    load: &Arc<Load>,
    sender: &mpsc::UnboundedSender<Done>,
    stop: &watch::Receiver<bool>,
) {
    let started = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..load.parallel {
        let (load, sender, stop) = (Arc::clone(load), sender.clone(), stop.clone());
        let started = Arc::clone(&started);
        tasks.spawn(async move {
            while !*stop.borrow() {
                let n = started.fetch_add(1, Ordering::Relaxed);
                if load.count > 0 && n >= load.count {
                    break;
                }
                sender.send(one(&load, load.to[n as usize % load.to.len()]).await).ok();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn connect(load: &Load, to: IpAddr, done: &mut Done) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bind) = load.bind.filter(|bind| bind.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    if let Some(mark) = load.mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    let began = Instant::now();
    let stream = socket.connect(SocketAddr::new(to, load.port)).await?;
    done.connected = Some(began.elapsed());
    done.local = Some(stream.local_addr()?.ip());
    Ok(stream)
}

async fn one(load: &Load, to: IpAddr) -> Done {
    let mut done = Done { local: None, connected: None, error: None, round_trips: 0, stall: Duration::ZERO };
    let limit = Duration::from_millis(load.timeout_ms);
    let result = tokio::time::timeout(limit, async {
        let mut stream = connect(load, to, &mut done).await?;
        let mut banner = [0; 128];
        if stream.read(&mut banner).await? == 0 {
            return Err(std::io::Error::other("closed before the banner"));
        }
        if matches!(banner[0], b'4' | b'5') {
            return Err(std::io::Error::other("turned away by the banner"));
        }
        tokio::time::sleep(Duration::from_millis(load.hold_ms)).await;
        // A receiver that has closed already does not want it.
        stream.write_all(b"QUIT\r\n").await.ok();
        Ok(())
    })
    .await;
    done.error = error_name(result);
    done
}

async fn hold_live(load: &Load, to: IpAddr, mut stop: watch::Receiver<bool>) -> Done {
    let mut done = Done { local: None, connected: None, error: None, round_trips: 0, stall: Duration::ZERO };
    let result = async {
        let mut stream = connect(load, to, &mut done).await?;
        stream.set_nodelay(true)?;
        while !*stop.borrow_and_update() {
            let began = Instant::now();
            stream.write_all(PATTERN).await?;
            let mut back = [0; PATTERN.len()];
            stream.read_exact(&mut back).await?;
            if &back != PATTERN {
                return Err(std::io::Error::other("other data came back"));
            }
            done.stall = done.stall.max(began.elapsed());
            done.round_trips += 1;
            tokio::time::timeout(PACE, stop.changed()).await.ok();
        }
        Ok(())
    }
    .await;
    done.error = error_name(Ok(result));
    done
}

fn error_name(result: Result<std::io::Result<()>, tokio::time::error::Elapsed>) -> Option<String> {
    match result {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(
            e.raw_os_error()
                .map_or_else(|| e.to_string(), |n| format!("{:?}", nix::errno::Errno::from_raw(n))),
        ),
        Err(_) => Some("timeout".to_owned()),
    }
}

async fn collect(mut receiver: mpsc::UnboundedReceiver<Done>) -> Report {
    let mut report = Report::default();
    let mut times = Vec::new();
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(done) = receiver.recv().await {
        report.attempts += 1;
        match done.error {
            None => {
                report.ok += 1;
                report.late += u64::from(done.connected.is_some_and(|took| took > LATE));
            }
            Some(error) => *failed.entry(error).or_default() += 1,
        }
        times.extend(done.connected.map(|t| t.as_secs_f64() * 1000.0));
        if let Some(local) = done.local {
            *report.local.entry(local).or_default() += 1;
        }
        report.round_trips += done.round_trips;
        report.longest_stall_ms = report.longest_stall_ms.max(done.stall.as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        times.get(((times.len() as f64 - 1.0).max(0.0) * share) as usize).copied().unwrap_or(0.0)
    };
    (report.p50_ms, report.p99_ms, report.max_ms) = (at(0.5), at(0.99), at(1.0));
    report.failed = failed;
    report
}
