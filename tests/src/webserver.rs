//! A small web server: it answers each path as it is told to, and keeps what it was asked.
//!
//! Owns: one listener and its answers. Must not: know what is asked for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::netns::NetNs;

/// What it was asked once.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, names in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

#[derive(Debug, Default)]
struct Now {
    /// Status and body by path without its query; others get 200 and nothing.
    answers: BTreeMap<String, (u16, String)>,
    asked: Vec<Asked>,
}

/// The running server; dropping it closes its port.
#[derive(Debug)]
pub struct WebServer {
    now: Arc<Mutex<Now>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl WebServer {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(ns: &NetNs, at: SocketAddr) -> Result<Self> {
        let listener = ns.run(|| TcpListener::bind(at))??;
        listener.set_nonblocking(true)?;
        let (now, stop) = (Arc::<Mutex<Now>>::default(), Arc::new(AtomicBool::new(false)));
        let (of_thread, stopped) = (Arc::clone(&now), Arc::clone(&stop));
        let thread = ns.thread("webserver", move || serve(&listener, &of_thread, &stopped))?;
        Ok(Self { now, stop, thread: Some(thread) })
    }

    /// From now on this is answered at a path.
    pub fn answer(&self, path: &str, status: u16, body: &str) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.answers.insert(path.to_owned(), (status, body.to_owned()));
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let ended =
            self.thread.take().map_or(Ok(()), |t| t.join().map_err(|_| anyhow!("it panicked")).flatten());
        if let Err(e) = ended {
            eprintln!("lab: web server: {e:#}");
        }
    }
}

fn serve(listener: &TcpListener, now: &Mutex<Now>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // A client that goes away is its own affair.
        if let Err(e) = exchange(&stream, now) {
            eprintln!("lab: web server: {e:#}");
        }
    }
    Ok(())
}

fn exchange(stream: &TcpStream, now: &Mutex<Now>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").map_or(Ok(0), |length| length.parse())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let (status, answer) = {
        let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
        let known = now.answers.get(path.split('?').next().unwrap_or_default()).cloned();
        now.asked.push(Asked { method, path, headers, body });
        known.unwrap_or((200, String::new()))
    };
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
    let mut stream = stream;
    Ok(stream.write_all(format!("{head}{answer}").as_bytes())?)
}
