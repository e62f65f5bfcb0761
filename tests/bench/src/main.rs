//! Measures airlockfs and virtiofsd side by side: `cargo xtask bench` builds and starts this.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use airlockfs_bench::cases::{self, Case};
use airlockfs_bench::plan::{Plan, USUAL_DEPTHS};
use airlockfs_bench::report::{Report, json, markdown, svg, targets};
use airlockfs_bench::stats::Key;
use airlockfs_bench::traces;
use airlockfs_bench::tree::Medium;
use airlockfs_bench::variant::{Program, Variant};
use airlockfs_bench::wait::Wait;
use airlockfs_tests::placement::Placement;
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::sys::resource::{Resource, setrlimit};

/// Measures airlockfs and virtiofsd in turn, over virtqueues of a front end of our own
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Options {
    /// Cases and traces to run, separated by commas; `list` lists them [default: all]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Requests in flight
    #[arg(long, value_delimiter = ',', default_values_t = USUAL_DEPTHS)]
    depths: Vec<usize>,
    /// Request queues
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4])]
    queues: Vec<usize>,
    /// How often to measure everything
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a measurement
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Where front end and daemon run
    #[arg(long, value_delimiter = ',', default_values_t = [Placement::Together, Placement::Apart])]
    placements: Vec<Placement>,
    /// File systems under the shared directory
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Medium::Tmpfs, Medium::Disk])]
    media: Vec<Medium>,
    /// How the front end waits when it does not share the daemon's CPU
    #[arg(long, value_enum, default_value_t = Wait::Sleep)]
    wait: Wait,
    /// A daemon to measure, PROGRAM[:LABEL=OPTIONS], again for each; PROGRAM is airlockfs or
    /// virtiofsd
    #[arg(long = "variant")]
    variants: Vec<Variant>,
    /// What the project's targets are about and no more, and a table of them: about a quarter of an
    /// hour
    #[arg(long, conflicts_with_all = ["quick", "depths", "queues", "placements", "media", "variants", "cases"])]
    targets: bool,
    /// Leave out the traces: real programs on the daemons, mounted through /dev/fuse
    #[arg(long)]
    no_traces: bool,
    /// Files for memory and time by the number of known inodes; 0 leaves that out [default:
    /// 1000000, quick: 100000]
    #[arg(long)]
    known: Option<usize>,
    /// Starts of each daemon for nothing but their time; 0 leaves that out [default: 40, quick and
    /// for some cases: 10]
    #[arg(long)]
    starts: Option<usize>,
    /// One minute: two depths, three rounds, one queue, on one CPU and tmpfs, short measurements
    #[arg(long)]
    quick: bool,
    /// Where the report goes
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    if options.cases.iter().any(|name| name == "list") {
        for case in cases::all() {
            println!("{:20} {}", case.name, case.about);
        }
        for trace in traces::all() {
            println!("{:20} {}", trace.name, trace.about);
        }
        return Ok(());
    }
    // virtiofsd holds a descriptor for each inode it knows, and takes the limit it is started with.
    const FILES: u64 = 1 << 20;
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
    let plan = plan(&options)?;
    let about = about(&plan);
    let results = plan.run()?;
    let report = Report {
        cases: &plan.cases,
        traces: &plan.traces,
        results: &results,
        about: &about,
        idle_seconds: plan.idle.as_secs_f64(),
    };
    fs::create_dir_all(&options.output)?;
    let table = markdown(&report);
    fs::write(options.output.join("bench.md"), &table)?;
    fs::write(options.output.join("bench.json"), json(&report))?;
    fs::write(options.output.join("bench.svg"), svg(&report))?;
    let judged = targets(&report);
    fs::write(options.output.join("targets.md"), &judged)?;
    println!("{table}\n{judged}");
    println!("written to {}", options.output.display());
    ensure!(
        results.failures.is_empty(),
        "{} measurements failed",
        results.failures.len()
    );
    Ok(())
}

fn plan(options: &Options) -> Result<Plan> {
    let quick = options.quick;
    let mut variants = options.variants.clone();
    if variants.is_empty() {
        variants = Variant::defaults();
    }
    for variant in &variants {
        variant.binary()?;
    }
    let mut plan = Plan {
        cases: select(&options.cases)?,
        depths: options.depths.clone(),
        queues: options.queues.clone(),
        rounds: options.rounds,
        time: Duration::from_secs_f64(options.seconds),
        starts: options.starts.unwrap_or(if quick || !options.cases.is_empty() {
            10
        } else {
            40
        }),
        idle: Duration::from_secs(if quick { 1 } else { 10 }),
        placements: options.placements.clone(),
        media: options.media.clone(),
        disk: options.output.clone(),
        variants,
        wait: options.wait,
        quick,
        wanted: |_, _, _| true,
        traces: traces::all()
            .into_iter()
            .filter(|trace| asked(&options.cases, trace.name))
            .collect(),
        known: Some(options.known.unwrap_or(if quick { 100_000 } else { 1_000_000 })),
    };
    if options.no_traces {
        plan.traces.clear();
    }
    if options.known == Some(0) || options.known.is_none() && !options.cases.is_empty() {
        plan.known = None;
    }
    if options.targets {
        plan.placements.push(Placement::Free);
        plan.wanted = for_targets;
    }
    if quick {
        plan.depths = vec![1, 16];
        plan.queues = vec![1];
        plan.rounds = 3;
        plan.time = Duration::from_millis(100);
        plan.placements = vec![Placement::Together];
        plan.media = vec![Medium::Tmpfs];
    }
    Ok(plan)
}

/// What the targets are about: one queue in both placements, metadata in memory, data and waits on
/// the disk too; several queues of ours alone, on both processors.
fn for_targets(case: &Case, key: &Key, program: Program) -> bool {
    const ON_DISK: &[&str] = &[
        "lookup",
        "lookup-beside-fsync",
        "read-cold",
        "read-4k",
        "write-4k",
        "read-1m",
        "write-1m",
    ];
    const QUEUES: &[&str] = &["lookup", "getattr", "create-unlink"];
    match (key.placement, key.medium) {
        (Placement::Free, Medium::Tmpfs) => {
            program == Program::Airlockfs && QUEUES.contains(&case.name) && key.depth >= 16
        }
        (Placement::Free, Medium::Disk) | (Placement::Apart, Medium::Disk) => false,
        (Placement::Apart, Medium::Tmpfs) => key.queues == 1,
        (Placement::Together, Medium::Tmpfs) => key.queues == 1,
        (Placement::Together, Medium::Disk) => key.queues == 1 && ON_DISK.contains(&case.name),
    }
}

fn select(names: &[String]) -> Result<Vec<Case>> {
    let (all, traces) = (cases::all(), traces::all());
    for name in names {
        if all.iter().all(|case| case.name != name) && traces.iter().all(|trace| trace.name != name) {
            bail!("no case or trace '{name}'; `--cases list` lists them");
        }
    }
    Ok(all.into_iter().filter(|case| asked(names, case.name)).collect())
}

/// Without a name all are asked for.
fn asked(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|asked| asked == name)
}

fn about(plan: &Plan) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let names: Vec<String> = plan.variants.iter().map(Variant::name).collect();
    let mut lines = vec![
        format!(
            "{cpus} CPUs,{}; Linux {}",
            model.trim_start_matches([' ', '\t', ':']),
            read("/proc/sys/kernel/osrelease").trim()
        ),
        format!(
            "{} rounds of {} s, variants {}",
            plan.rounds,
            plan.time.as_secs_f64(),
            names.join(", ")
        ),
    ];
    let peer = plan
        .variants
        .iter()
        .find(|variant| variant.program == Program::Virtiofsd);
    if let Some(binary) = peer.and_then(|variant| variant.binary().ok()) {
        let version = std::process::Command::new(binary)
            .arg("--version")
            .output()
            .context("--version");
        if let Ok(output) = version {
            lines.push(
                String::from_utf8_lossy(&output.stdout)
                    .trim()
                    .replace("backend ", ""),
            );
        }
    }
    lines
}
