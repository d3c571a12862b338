//! Loads a model file over semihosting, as a device would from a card, and says what is wrong with it: an exit code and a
//! line, never a fault.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod device {
    use core::ptr::addr_of_mut;

    use firmware_demo::Failure;
    use firmware_demo::board::println;
    use semihosting::fs::File;
    use semihosting::io::Read;
    use traflow_runtime::{Aligned, IntegerEngine, Model};

    firmware_demo::entry!(main);

    /// Memory for a file and for its values, on a board of 512 KB.
    static mut FILE: Aligned<[u8; 256 << 10]> = Aligned([0; 256 << 10]);
    static mut ARENA: Aligned<[u8; 64 << 10]> = Aligned([0; 64 << 10]);

    fn main() -> Result<(), Failure> {
        // SAFETY: this function runs once.
        let (file, arena) = unsafe { (&mut (*addr_of_mut!(FILE)).0, &mut (*addr_of_mut!(ARENA)).0) };
        let missing = |_| Failure::Missing("there is no model.traflow in the folder where QEMU runs");
        let mut source = File::open(c"model.traflow").map_err(missing)?;
        let mut len = 0;
        while len < file.len() {
            match source.read(&mut file[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(_) => return Err(Failure::Missing("reading model.traflow")),
            }
        }
        if len == file.len() {
            return Err(Failure::Missing("the model does not fit into 256 KB"));
        }
        let mut engine = IntegerEngine::new(Model::new(&file[..len])?, arena)?;
        engine.self_test()?;
        println!("self-test: passed");
        Ok(())
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("error: this program is for a board");
    std::process::exit(2);
}
