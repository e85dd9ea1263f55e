//! Generates the Rust of the contracts; needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "accounts/v1/accounts.proto",
        "admin/v1/admin.proto",
        "events/v1/events.proto",
        "spool/v1/spool.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
