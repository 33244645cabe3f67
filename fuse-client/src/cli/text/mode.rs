//! Type and permissions as `ls -l` writes them.

use wire::namespace::{FileType, Mode};

/// Type and permissions in ten letters: `drwxr-xr-x`.
pub(crate) fn mode_text(file_type: FileType, mode: Mode) -> String {
    let bits = mode.bits();
    let mut text = String::with_capacity(10);
    text.push(type_letter(file_type));
    for (shift, special, execute, alone) in
        [(6, Mode::SET_UID, 's', 'S'), (3, Mode::SET_GID, 's', 'S'), (0, Mode::STICKY, 't', 'T')]
    {
        let rwx = bits >> shift;
        text.push(if rwx & 4 != 0 { 'r' } else { '-' });
        text.push(if rwx & 2 != 0 { 'w' } else { '-' });
        text.push(match (rwx & 1 != 0, bits & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => execute,
            (false, true) => alone,
        });
    }
    text
}

/// The letter before the permissions.
fn type_letter(file_type: FileType) -> char {
    match file_type {
        FileType::File => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
    }
}

/// The type as a word, for `stat` and JSON.
pub(crate) fn type_word(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharDevice => "char-device",
        FileType::BlockDevice => "block-device",
    }
}

/// Major and minor number of a device, from the kernel's 32-bit encoding.
pub(crate) fn device_numbers(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00))
}

#[cfg(test)]
mod tests {
    use wire::namespace::{FileType, Mode};

    use super::{device_numbers, mode_text};

    #[test]
    fn modes_read_as_ls_writes_them() {
        for (file_type, bits, text) in [
            (FileType::File, 0o644, "-rw-r--r--"),
            (FileType::Directory, 0o1777, "drwxrwxrwt"),
            (FileType::Directory, 0o1770, "drwxrwx--T"),
            (FileType::File, 0o4755, "-rwsr-xr-x"),
            (FileType::File, 0o6644, "-rwSr-Sr--"),
            (FileType::Symlink, 0o777, "lrwxrwxrwx"),
            (FileType::Fifo, 0, "p---------"),
            (FileType::CharDevice, 0o600, "crw-------"),
            (FileType::BlockDevice, 0o660, "brw-rw----"),
            (FileType::Socket, 0o755, "srwxr-xr-x"),
        ] {
            assert_eq!(mode_text(file_type, Mode::new(bits)), text);
        }
    }

    #[test]
    fn a_device_number_splits_as_the_kernel_packs_it() {
        assert_eq!(device_numbers(0x0103), (1, 3));
        assert_eq!(device_numbers(0xfff0_01ff), (1, 0xf_ffff), "minor bits above the major");
    }
}
