//! `/metrics`, `/livez` and `/readyz`, in a thread of their own: an agent that is stuck can still be told from a healthy
//! one, and whoever scrapes cannot keep the agent from its work.

use super::Scrape;
use crate::clock::monotonic_ns;
use crate::control::figures::Figures;
use crate::control::server::Requests;
use crate::control::{Request as Ask, Response as Answer};
use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Connections to an address at once; one more replaces the oldest, so that idle ones shut nobody out.
const CONNECTIONS: usize = 16;
/// How long a connection may take. There is one request in each.
const LONGEST: Duration = Duration::from_secs(10);
/// How long the agent may take to answer. A scrape that waits longer is told that it does not.
const PATIENCE: Duration = Duration::from_secs(2);
/// How old figures may be: however often somebody asks, the agent answers ten times a second at the most.
const FRESH: Duration = Duration::from_millis(100);
/// How long the loop may stand still before the agent is not live. Longer than a resync of a million routes.
const STANDSTILL: Duration = Duration::from_secs(15);
/// Bytes of a request, its headers included.
const REQUEST: usize = 8192;

/// When the agent's loop last turned.
#[derive(Clone, Debug)]
pub(crate) struct LoopActivity(Arc<AtomicU64>);

impl Default for LoopActivity {
    fn default() -> Self {
        LoopActivity(Arc::new(AtomicU64::new(monotonic_ns())))
    }
}

impl LoopActivity {
    /// It turns now.
    pub(crate) fn turned(&self) {
        self.0.store(monotonic_ns(), Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

/// Listens on these addresses. To be called before anything is attached: a port in use is found then.
///
/// # Errors
/// An address is not this machine's, or its port is in use.
pub(crate) fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: &SocketAddr| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    let bound = addresses.iter().map(|address| {
        bind(address).with_context(|| format!("listen-address {address}: cannot listen there (choose another)"))
    });
    bound.collect()
}

/// Serves until the process ends.
///
/// # Errors
/// No thread can be started.
pub(crate) fn serve(listeners: Vec<TcpListener>, requests: Requests, activity: LoopActivity) -> anyhow::Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let source = Arc::new(Source { requests, activity, last: Mutex::new(None) });
    let serve = move || {
        runtime.block_on(async {
            let accepting = listeners.into_iter().map(|listener| tokio::spawn(accept(listener, Arc::clone(&source))));
            for task in accepting.collect::<Vec<_>>() {
                if let Ok(Err(error)) = task.await {
                    log::error!("metrics and probes are not served: {error:#}");
                }
            }
        });
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(serve).context("starting a thread failed")?;
    Ok(())
}

async fn accept(listener: TcpListener, source: Arc<Source>) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                connections.push_back(tokio::spawn(converse(stream, Arc::clone(&source))));
            }
            Err(error) => {
                log::debug!("a connection was not accepted: {error}");
                // Of descriptors there may be none left.
                connections.drain(..).for_each(|connection| connection.abort());
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(|request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(source.respond(&request).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST / 2)
        .max_buf_size(REQUEST)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(LONGEST, connection).await {
        log::debug!("a client of the metrics disconnected: {error}");
    }
}

/// Where answers come from.
struct Source {
    requests: Requests,
    activity: LoopActivity,
    /// The figures that were asked for last. Locked while the agent is asked: all who wait take one answer.
    last: Mutex<Option<(Instant, Option<Figures>)>>,
}

impl Source {
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/livez" => self.live(),
            "/readyz" => self.ready().await,
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n".to_owned()),
        }
    }

    fn live(&self) -> Response<Full<Bytes>> {
        let age = self.activity.age();
        if age < STANDSTILL {
            return plain(StatusCode::OK, "ok\n".to_owned());
        }
        let why = format!("the agent's loop has stood still for {} s\n", age.as_secs());
        plain(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    async fn ready(&self) -> Response<Full<Bytes>> {
        let why = match self.figures().await {
            Some(Figures { ready: true, .. }) => return plain(StatusCode::OK, "ok\n".to_owned()),
            Some(figures) => figures.not_ready_because.unwrap_or_else(|| "the lease has run out".to_owned()),
            None => format!("the agent did not answer within {PATIENCE:?}"),
        };
        plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let scrape = Scrape { figures: self.figures().await, heartbeat_age: Some(self.activity.age().as_secs_f64()) };
        match super::text(&scrape) {
            Ok(text) => {
                let mut response = plain(StatusCode::OK, text);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        }
    }

    /// The agent's figures; `None` if it does not answer.
    async fn figures(&self) -> Option<Figures> {
        let mut last = self.last.lock().await;
        if let Some((_, figures)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return figures.clone();
        }
        let ask = async {
            let (reply, response) = oneshot::channel();
            self.requests.send((Ask::Figures, reply)).await.ok()?;
            match response.await.ok()? {
                Answer::Figures(figures) => Some(*figures),
                _ => None,
            }
        };
        let figures = timeout(PATIENCE, ask).await.ok().flatten();
        *last = Some((Instant::now(), figures.clone()));
        figures
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
