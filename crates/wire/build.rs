//! Turns the .proto files into message types, one marker type per rpc, and a descriptor set.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{env, fs};

use prost::Message as _;
use prost_build::{Method, Service, ServiceGenerator};

/// The root of imports; the files of a service lie in a folder of its own below it.
const PROTO_ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_ROOT}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let mut files = proto_files(&Path::new(PROTO_ROOT).join("client"))?;
    files.extend(proto_files(&Path::new(PROTO_ROOT).join("router"))?);
    let mut set = protox::compile(files, [PROTO_ROOT])?;
    let markers = Markers::default();
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .enable_type_names()
        .type_name_domain(["."], "type.modal.com")
        .service_generator(Box::new(markers.clone()))
        .compile_fds(set.clone())?;
    for (service, code) in markers.into_code()? {
        fs::write(out.join(format!("markers_{service}.rs")), code)?;
    }

    // Comments and positions are for the generated code only.
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    Ok(())
}

/// All .proto files of a folder, in the order of their names.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    Ok(files)
}

/// Writes one marker type per rpc instead of a client and a server trait. The code goes to files of
/// its own, one for each service, because the markers live in other modules than the messages.
#[derive(Clone, Default)]
struct Markers(Arc<Mutex<BTreeMap<String, String>>>);

impl Markers {
    /// By the name of the service.
    fn into_code(self) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
        Ok(self.0.lock().map_err(|_| "the marker generator panicked")?.clone())
    }
}

impl ServiceGenerator for Markers {
    fn generate(&mut self, service: Service, _: &mut String) {
        let mut code = String::new();
        for method in &service.methods {
            code += &marker(&service, method);
        }
        let names = service.methods.iter().map(|method| format!("    {:?},\n", method.proto_name));
        let _ = write!(
            code,
            "/// The names of all rpcs declared here, in the order of their declaration.\n\
             pub const DECLARED: &[&str] = &[\n{}];\n",
            names.collect::<String>()
        );
        if let Ok(mut all) = self.0.lock() {
            all.insert(service.proto_name, code);
        }
    }
}

/// The code of one marker type.
fn marker(service: &Service, method: &Method) -> String {
    let name = &method.proto_name;
    let kind = match (method.client_streaming, method.server_streaming) {
        (false, false) => "Unary",
        (false, true) => "ServerStreaming",
        (true, false) => "ClientStreaming",
        (true, true) => panic!("{name} streams both ways: there is no marker trait for that"),
    };
    let path = format!("/{}.{}/{name}", service.package, service.proto_name);
    format!(
        "/// The rpc `{path}`.\n\
         #[derive(Clone, Copy, Debug)]\n\
         pub struct {name};\n\
         impl Rpc for {name} {{\n\
         \x20   const NAME: &'static str = {name:?};\n\
         \x20   const PATH: &'static str = {path:?};\n\
         \x20   type Request = {};\n\
         \x20   type Response = {};\n\
         }}\n\
         impl {kind} for {name} {{}}\n\n",
        message_path(&method.input_type),
        message_path(&method.output_type),
    )
}

/// Where a message type stands, seen from the markers' module.
fn message_path(rust_type: &str) -> String {
    match rust_type {
        "()" => "()".into(),
        path if path.starts_with("::") => path.into(),
        path => format!("messages::{path}"),
    }
}
