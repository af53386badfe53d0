//! The one definition of the command line; help and man pages come from it.
//!
//! Owns: arguments and their parsers. Must not: act.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mailsteer_core::signal::log::Mta;

const EXIT_STATUS: &str = "Exit status: 0 done (status: every message leaves where it should), \
1 failed (status: something wants a look; check: the file has errors; try: not as wanted), \
2 wrong usage (status: mail does not leave as it should, or no agent answers).";

const DOCTOR_EXIT_STATUS: &str = "Exit status: 0 nothing to do (ok, note), 1 somebody should look (warn), \
2 it does not work like this (bad), or the host cannot be looked at.";

/// Above what every command takes, so that its own options stand by themselves.
const GLOBAL: &str = "Options of every command";

/// Chooses the address that each outbound SMTP connection leaves from, beneath any MTA.
#[derive(Parser, Debug)]
#[command(name = "mailsteer", version, after_help = EXIT_STATUS)]
pub struct Cli {
    /// The agent's control socket.
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "/run/mailsteer/control.sock", value_name = "PATH")]
    pub socket: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Whether to use colour.
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value = "auto", value_name = "WHEN")]
    pub color: Color,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Whether to use colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the agent in the foreground.
    Agent(AgentArgs),
    /// Put up the locks and the rules, and end: for the boot, before any MTA starts.
    Boot(AgentArgs),
    /// Check a config file; every problem at once, each at its place.
    Check {
        /// The file.
        file: PathBuf,
        /// Do not ask this host: the file is meant for another.
        #[arg(long)]
        away: bool,
    },
    /// Look at this host: what is missing, what it costs, what to do. Needs no agent, and changes nothing.
    #[command(after_help = DOCTOR_EXIT_STATUS)]
    Doctor {
        /// Also judge what this config needs, and whether it collides with what others have.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Write a config from the addresses, MTAs, containers and uplinks that are found here. It observes.
    Init {
        /// Where to; without it, or as `-`, it is printed.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Overwrite a file that is there.
        #[arg(long)]
        force: bool,
    },
    /// Is every message leaving where it should? Exits with 0 (yes), 1 (wants a look) or 2 (no).
    Status,
    /// Every source with its state and counters.
    Sources,
    /// The last connections: who, from which source, where to, what became of it.
    Connections(TailArgs),
    /// What each address did over some days: sent, accepted, deferred, blocked, listed, flips.
    Report {
        /// How many days, today (UTC) included; 1 to 92.
        #[arg(long, default_value_t = 7, value_name = "N")]
        days: u32,
    },
    /// Make a real connection in a stream and show what it left from. Needs root.
    Try {
        /// The stream.
        #[arg(long)]
        stream: String,
        /// HOST[:PORT]; an IPv6 address with a port stands in brackets.
        #[arg(value_name = "HOST[:PORT]")]
        host: String,
    },
    /// Say what would happen to a connection, and why.
    Explain(ExplainArgs),
    /// Show what the agent would change now.
    Plan {
        /// Show it for this file, without a running agent.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Take a source out of service.
    Suspend {
        /// Name or public address.
        source: String,
        /// For how long (90s, 2h, 1d); without it, until resumed.
        #[arg(long = "for", value_parser = duration, value_name = "TIME")]
        span: Option<Duration>,
        /// Why; stands in the events.
        #[arg(long)]
        reason: String,
    },
    /// Put a source back into service.
    Resume {
        /// Name or public address.
        source: String,
        /// Why; stands in the events.
        #[arg(long)]
        reason: String,
    },
    /// Let a stream pass unsteered for a time.
    Bypass {
        /// The stream.
        stream: String,
        /// For how long (90s, 2h, 1d).
        #[arg(long = "for", value_parser = duration, value_name = "TIME", required_unless_present = "end")]
        span: Option<Duration>,
        /// End a bypass now.
        #[arg(long, conflicts_with = "span")]
        end: bool,
        /// Why; stands in the events.
        #[arg(long)]
        reason: String,
    },
    /// Let no share move by itself: what a source cannot serve of its own is refused, and not moved.
    Hold {
        /// For how long (90s, 2h, 1d); without it, until it is ended.
        #[arg(long = "for", value_parser = duration, value_name = "TIME")]
        span: Option<Duration>,
        /// End it now.
        #[arg(long, conflicts_with = "span")]
        end: bool,
        /// Why; stands in the events.
        #[arg(long)]
        reason: String,
    },
    /// Tell what became of messages, where the agent cannot read it in the MTA's log.
    ReportOutcome(OutcomeArgs),
    /// Read the config again; a bad one changes nothing.
    Reload,
    /// What happened: flips, repairs, reloads, the operator's words.
    Events {
        /// How much of it.
        #[command(flatten)]
        tail: TailArgs,
        /// With what each rests on.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Judge again what a verdict rests on: each connection, whether it counted, and what other sources met.
    Replay {
        /// The number of the event, as `events` has it.
        event: u64,
    },
    /// Say what the table of rules makes of receivers' replies: one a line on standard input. Needs no agent.
    Classify(ClassifyArgs),
    /// Remove everything of mailsteer's from the kernel, and end the agent if one runs. Mail then leaves unsteered.
    Teardown(TeardownArgs),
    /// Used by `try`.
    #[command(hide = true)]
    ConnectAs(ConnectArgs),
}

/// Options of the agent.
#[derive(Args, Debug)]
pub struct AgentArgs {
    /// The config; without it the agent observes.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the BPF file system is mounted.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    pub bpffs: PathBuf,
    /// The cgroup2 directory to guard; found from /proc/mounts by default.
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Where state is kept.
    #[arg(long, default_value = "/var/lib/mailsteer", value_name = "DIR")]
    pub state: PathBuf,
    /// How the log is written; text by default. MAILSTEER_LOG filters it.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: crate::telemetry::LogFormat,
}

/// What to take away, and whether to ask. The directories are those of the agent, for when it does not run.
#[derive(Args, Debug)]
pub struct TeardownArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Where the BPF file system is mounted.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    pub bpffs: PathBuf,
    /// Where state is kept.
    #[arg(long, default_value = "/var/lib/mailsteer", value_name = "DIR")]
    pub state: PathBuf,
}

/// Whose log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogOf {
    /// Postfix, by syslog, the journal or maillog_file.
    Postfix,
    /// Exim's main log.
    Exim,
    /// OpenSMTPD.
    Opensmtpd,
    /// sendmail.
    Sendmail,
}

impl From<LogOf> for Mta {
    fn from(of: LogOf) -> Self {
        match of {
            LogOf::Postfix => Self::Postfix,
            LogOf::Exim => Self::Exim,
            LogOf::Opensmtpd => Self::OpenSmtpd,
            LogOf::Sendmail => Self::Sendmail,
        }
    }
}

/// By which rules to judge replies.
#[derive(Args, Debug)]
pub struct ClassifyArgs {
    /// The lines are the log of an MTA: what receivers said is judged, everything else is left out.
    #[arg(long, value_enum, value_name = "MTA")]
    pub log: Option<LogOf>,
    /// A table in place of the one that comes with mailsteer.
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Who said it; rules for other providers are passed over.
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
}

/// What became of a message.
#[derive(Args, Debug)]
pub struct OutcomeArgs {
    /// Read the log of an MTA from standard input, and tell what receivers said: `journalctl -f -o short-iso -u postfix@- |
    /// mailsteer report-outcome --log postfix`.
    #[arg(long, value_enum, value_name = "MTA", conflicts_with_all = ["destination", "reply", "batch"])]
    pub log: Option<LogOf>,
    /// The receiver's address. Without it, reports are read from standard input: one JSON object a line, with the names of
    /// these options as keys (`destination`, `reply`, `local_port` ...) and `time`.
    #[arg(long, value_name = "ADDRESS", required_unless_present_any = ["batch", "log"])]
    pub destination: Option<IpAddr>,
    /// Read reports from standard input.
    #[arg(long, conflicts_with_all = ["destination", "reply"])]
    pub batch: bool,
    /// The source by name or address; without it the connection is found by process, port, receiver and time.
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// The stream; needed with a source that several streams use.
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<String>,
    /// The process that had the connection.
    #[arg(long)]
    pub pid: Option<u32>,
    /// The connection's port on this host.
    #[arg(long, value_name = "PORT")]
    pub local_port: Option<u16>,
    /// The recipient complained of a message that was delivered.
    #[arg(long)]
    pub complaint: bool,
    /// What the receiver said: code and text.
    #[arg(value_name = "REPLY", required_unless_present_any = ["batch", "complaint", "log"])]
    pub reply: Option<String>,
}

/// How much of a history.
#[derive(Args, Debug, Clone, Copy)]
pub struct TailArgs {
    /// How many of the last ones.
    #[arg(short, default_value_t = 20, value_name = "N")]
    pub n: u32,
    /// Go on with new ones.
    #[arg(long, short)]
    pub follow: bool,
}

/// A connection to explain.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// User name.
    #[arg(long, conflicts_with = "uid")]
    pub user: Option<String>,
    /// User id.
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group id.
    #[arg(long)]
    pub gid: Option<u32>,
    /// Address the socket is bound to.
    #[arg(long, value_name = "ADDRESS")]
    pub tag: Option<IpAddr>,
    /// cgroup path, from the root of the hierarchy.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Source address of forwarded traffic (a container's).
    #[arg(long, value_name = "ADDRESS")]
    pub subnet: Option<IpAddr>,
    /// Packet mark, decimal or 0x...
    #[arg(long, value_parser = mark)]
    pub mark: Option<u32>,
    /// Incoming interface of forwarded traffic.
    #[arg(long, value_name = "INTERFACE")]
    pub via: Option<String>,
    /// HOST[:PORT]; a name is looked up, and explained for each family.
    #[arg(value_name = "HOST[:PORT]")]
    pub destination: String,
    /// Explain for this file, without a running agent.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `try` tells its child.
#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// User id to connect as.
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group id to connect as.
    #[arg(long)]
    pub gid: Option<u32>,
    /// Address to bind to.
    #[arg(long)]
    pub bind: Option<IpAddr>,
    /// Packet mark to set.
    #[arg(long)]
    pub mark: Option<u32>,
    /// Directory of the cgroup to move into.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Where to.
    pub destination: std::net::SocketAddr,
}

/// Reads `90s`, `30m`, `2h`, `1d`, and sums such as `1h30m`.
///
/// # Errors
/// Says what is wrong and how it is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("`{text}` is no duration: write a number and a unit, such as 90s, 30m, 2h, 1d or 1h30m");
    let (mut total, mut digits) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let number: u64 = std::mem::take(&mut digits).parse().map_err(|_| bad())?;
        total = number.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
    }
    if !digits.is_empty() || total == 0 || total > 366 * 86_400 {
        return Err(bad());
    }
    Ok(Duration::from_secs(total))
}

pub(super) fn mark(text: &str) -> Result<u32, String> {
    text.strip_prefix("0x")
        .map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16))
        .map_err(|_| format!("`{text}` is no packet mark: write a number such as 17 or 0x11"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "s", "0s", "2 h", "1w", "400d", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
