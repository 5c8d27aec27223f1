//! Whoever collects an agent's metrics, as Prometheus does: each second, over a new connection.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;

/// How often.
const EACH: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where ports begin: several agents may run in one namespace.
const FIRST_PORT: u16 = 20_000;

static ALL: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Every agent that is started from here on is scraped.
pub fn scrape_all() {
    ALL.store(true, Ordering::Relaxed);
}

/// The address on which an agent that is about to start serves its metrics, if it is to be scraped.
pub(crate) fn address() -> Option<SocketAddr> {
    const PORTS: u16 = 10_000;
    ALL.load(Ordering::Relaxed).then(|| {
        let port = FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        (Ipv4Addr::LOCALHOST, port).into()
    })
}

/// Scrapes until it is dropped.
#[derive(Debug)]
pub(crate) struct Scraper {
    /// Dropped, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scraper {
    /// Scrapes what is served at `address` in a namespace.
    pub(crate) fn start(node: &Namespace, address: SocketAddr) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let node = node.clone();
        let scrape = move || {
            let (begin, mut answers) = (Instant::now(), 0);
            while stopped.recv_timeout(EACH) == Err(RecvTimeoutError::Timeout) {
                // While the agent starts, and once it has ended, there is nobody.
                match scrape(address) {
                    Ok(()) => answers += 1,
                    Err(error) if error.chain().any(is_refusal) => {}
                    Err(error) => eprintln!("scraping {address}: {error:#}"),
                }
            }
            // What was measured meanwhile would be something else.
            assert!(answers > 0 || begin.elapsed() < 2 * PATIENCE, "{address} never gave its metrics");
        };
        let in_node = move || {
            if let Err(error) = node.run(scrape) {
                eprintln!("scraping {address}: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("scraper".into()).spawn(in_node).context("starting a thread")?;
        Ok(Scraper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        }
    }
}

fn is_refusal(cause: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, UnexpectedEof};
    let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ConnectionRefused | ConnectionReset | UnexpectedEof))
}

fn scrape(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\n# TYPE "), "no metrics: {answer:?}");
    Ok(())
}
