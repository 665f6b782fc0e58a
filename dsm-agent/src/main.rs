//! The binary: reads the command line, runs it, and ends with the exit code that it says.

fn main() -> std::process::ExitCode {
    dsm_agent::cli::main()
}
