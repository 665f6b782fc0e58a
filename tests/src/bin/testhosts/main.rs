//! Nodes on this machine, from the command line.
fn main() -> std::process::ExitCode {
    match system_tests::cluster::launcher::launch() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
