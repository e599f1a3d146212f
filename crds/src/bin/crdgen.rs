//! Writes the CustomResourceDefinitions, one file per kind: to `crds/generated/`, and as templates of the chart `sipmcp-crds`; and `docs/crds.md`. Run
//! it after a change of a type.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for crd in crds::schema::all() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        put(&here.join("generated"), &name, &crds::schema::to_yaml(crd)?)?;
        put(&here.join("../charts/sipmcp-crds/templates"), &name, &crds::schema::to_template(crd)?)?;
    }
    put(&here.join("../docs"), "crds.md", &crds::schema::reference::markdown())
}

fn put(folder: &Path, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(name);
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
