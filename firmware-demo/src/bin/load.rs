//! Loads a model file over semihosting, as a device would from a card, and says what is wrong with it: an exit code and a
//! line, never a fault.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod device {
    use firmware_demo::board::println;
    use semihosting::fs::File;
    use semihosting::io::Read;
    use traflow_runtime::{Aligned, IntegerEngine, Model};

    firmware_demo::entry!(main);

    /// Memory for a file and for its values, on a board of 512 KB.
    static mut FILE: Aligned<[u8; 256 << 10]> = Aligned([0; 256 << 10]);
    static mut ARENA: Aligned<[u8; 64 << 10]> = Aligned([0; 64 << 10]);

    fn main() -> u8 {
        // SAFETY: this function runs once.
        let (file, arena) =
            unsafe { (&mut (*core::ptr::addr_of_mut!(FILE)).0, &mut (*core::ptr::addr_of_mut!(ARENA)).0) };
        let Ok(mut source) = File::open(c"model.traflow") else {
            println!("error: there is no model.traflow in the folder where QEMU runs");
            return 4;
        };
        let mut len = 0;
        while len < file.len() {
            match source.read(&mut file[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(_) => {
                    println!("error: reading model.traflow");
                    return 4;
                }
            }
        }
        if len == file.len() {
            println!("error: the model has more than {} bytes", file.len() - 1);
            return 4;
        }
        let model = match Model::new(&file[..len]) {
            Ok(model) => model,
            Err(error) => {
                println!("error: the model: {error}");
                return 1;
            }
        };
        let mut engine = match IntegerEngine::new(model, arena) {
            Ok(engine) => engine,
            Err(error) => {
                println!("error: {error}");
                return 2;
            }
        };
        if let Err(error) = engine.self_test() {
            println!("error: self-test: {error}");
            return 3;
        }
        println!("self-test: passed");
        0
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("error: this program is for a board");
    std::process::exit(2);
}
