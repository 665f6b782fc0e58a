//! Entry point of the daemon and its command line.

fn main() -> std::process::ExitCode {
    vfsd::cli::main()
}
