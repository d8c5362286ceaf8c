//! The `commitfs` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    commitfs::cli::run()
}
