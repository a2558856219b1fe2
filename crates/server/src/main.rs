//! The `fanfare` command. Everything is in the library.

fn main() -> std::process::ExitCode {
    fanfare::cli::run()
}
