//! Log lines: which ones, and how they are written. Both may change while the agent runs.

use crate::config::{LogFormat, LogLevel};
use log::{Level, LevelFilter, Record};
use nix::sys::stat::fstat;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

static FORMAT: AtomicU8 = AtomicU8::new(TEXT);
const TEXT: u8 = 0;
const JOURNAL: u8 = 1;
const JSON: u8 = 2;

/// Starts the log. `verbose`: how often `-v` is given.
pub fn start(verbose: u8) {
    // What is logged is limited by `log::set_max_level`, which can be changed later.
    env_logger::Builder::new()
        .filter_module("arp_", LevelFilter::Trace)
        .filter_level(LevelFilter::Warn)
        .format(|into, record| {
            let time = into.timestamp_millis().to_string();
            into.write_all(line(FORMAT.load(Ordering::Relaxed), &time, record).as_bytes())
        })
        .init();
    log::set_max_level(if verbose == 0 { LevelFilter::Info } else { LevelFilter::Debug });
}

/// Sets what the settings ask for.
pub fn set(level: LogLevel, format: LogFormat) {
    log::set_max_level(match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    });
    let format = match format {
        LogFormat::Auto if is_journal() => JOURNAL,
        LogFormat::Auto | LogFormat::Text => TEXT,
        LogFormat::Journal => JOURNAL,
        LogFormat::Json => JSON,
    };
    FORMAT.store(format, Ordering::Relaxed);
}

/// Whether the journal reads what is written to standard error: systemd names the stream by its device and inode
/// (`$JOURNAL_STREAM`, systemd.exec(5)).
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

fn line(format: u8, time: &str, record: &Record<'_>) -> String {
    let (level, message) = (record.level(), record.args());
    match format {
        JSON => {
            let object = serde_json::json!({
                "time": time, "level": level.as_str().to_lowercase(), "target": record.target(), "message": message.to_string(),
            });
            format!("{object}\n")
        }
        JOURNAL => {
            // sd-daemon(3).
            let priority = match level {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            // Each line is an entry of its own.
            message.to_string().lines().map(|line| format!("<{priority}>{line}\n")).collect()
        }
        _ if level >= Level::Debug => format!("{time} {level:5} {}: {message}\n", record.target()),
        _ => format!("{time} {level:5} {message}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_has_level_and_message() {
        let said = |format, level, message: &str| {
            let arguments = format_args!("{message}");
            line(format, "T", &Record::builder().level(level).target("arp_agent").args(arguments).build())
        };
        assert_eq!(said(TEXT, Level::Info, "cali0: passing"), "T INFO  cali0: passing\n");
        assert_eq!(said(TEXT, Level::Debug, "x"), "T DEBUG arp_agent: x\n");
        assert_eq!(said(JOURNAL, Level::Warn, "a\nb"), "<4>a\n<4>b\n");
        let json: serde_json::Value = serde_json::from_str(&said(JSON, Level::Error, "a \"b\"\nc")).unwrap();
        let is = serde_json::json!({"time": "T", "level": "error", "target": "arp_agent", "message": "a \"b\"\nc"});
        assert_eq!(json, is);
    }
}
