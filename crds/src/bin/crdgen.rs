//! Writes the CustomResourceDefinitions to `crds/generated/`, one file per kind. Run it after a change of a type.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("generated")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    for crd in crds::schema::all() {
        let file = folder.join(format!("{}.yaml", crd.spec.names.plural));
        std::fs::write(&file, crds::schema::to_yaml(crd)?).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}
