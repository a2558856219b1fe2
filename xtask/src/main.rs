//! Chores of the repository. `cargo xtask test` is what everyone runs before a change lands, and
//! what the continuous integration runs: it installs what is missing and passes all tests.

mod bench;
mod conformance;
mod instructions;
mod programs;
mod supply;
mod test;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test            all checks and tests; installs what is missing
cargo xtask test --only S   one step (see --list)
cargo xtask test --list     the steps
cargo xtask tidy            rules of the tree that a look at the files can check
cargo xtask supply          licences, sources and banned crates of everything we depend on
cargo xtask conformance     all of what judges the wire, also compression and through proxies (10 minutes)
cargo xtask bench           all benchmarks (about 20 minutes), and their report in docs/benchmarks
cargo xtask bench NAME…     scenarios with such names; --quick: one short round, to see them run
cargo xtask instructions    instructions of fixed work on the fan-out path, against what is stored
cargo xtask instructions --record   store them";

fn main() -> ExitCode {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Err(error) = std::env::set_current_dir(root) {
        eprintln!("xtask: the repository has moved: {error}");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test::run(None),
        ["test", "--list"] => {
            println!("{}", test::STEPS.join("\n"));
            Ok(true)
        }
        ["test", "--only", step] => test::run(Some(step)),
        ["tidy"] => tidy::run().map(|found| report(&found)),
        ["supply"] => supply::run().map(|found| report(&found)),
        ["conformance"] => conformance::run(),
        ["bench", rest @ ..] => {
            let names: Vec<&str> = rest.iter().copied().filter(|word| *word != "--quick").collect();
            bench::run(&names, rest.contains(&"--quick"))
        }
        ["instructions"] => instructions::run(false).map(|(_, found)| report(&found)),
        ["instructions", "--record"] => instructions::run(true).map(|(_, found)| report(&found)),
        _ => {
            println!("{HELP}");
            Ok(words.is_empty() || words == ["help"])
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn report(found: &[String]) -> bool {
    found.iter().for_each(|line| println!("{line}"));
    found.is_empty()
}
