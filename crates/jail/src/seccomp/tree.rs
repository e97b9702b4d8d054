//! From the table of verdicts to a classic BPF program: a binary search over ranges of numbers.

use std::collections::BTreeMap;

use super::rules::{Examination, Verdict};
use crate::sys::filter::Instruction;

/// The whole filter.
pub(super) fn program(table: &BTreeMap<u32, Verdict>) -> Vec<Instruction> {
    let mut program = vec![
        load(OFFSET_ARCH),
        // Another architecture's calls (32-bit ones on a 64-bit kernel) have other numbers.
        jump(EQUAL, ARCH, 1, 0),
        answer(Verdict::Missing),
        load(OFFSET_NUMBER),
    ];
    program.extend(search(&ranges(table)));
    program
}

/// Numbers from `first` to the next range's first.
struct Range {
    first: u32,
    verdict: Verdict,
}

/// The ranges of equal verdicts, from 0 to the largest number, gaps filled with `Missing`. The
/// x32 calls (numbers with bit 30 set) thereby are missing too.
fn ranges(table: &BTreeMap<u32, Verdict>) -> Vec<Range> {
    let mut ranges: Vec<Range> = vec![];
    let mut add = |first: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|last| last.verdict != verdict) {
            ranges.push(Range { first, verdict });
        }
    };
    let mut next = 0;
    for (&number, &verdict) in table {
        if number > next {
            add(next, Verdict::Missing);
        }
        add(number, verdict);
        next = number + 1;
    }
    add(next, Verdict::Missing);
    ranges
}

/// Code that decides for a number which is known to lie in `ranges`; the accumulator holds it.
fn search(ranges: &[Range]) -> Vec<Instruction> {
    if let [only] = ranges {
        return leaf(only.verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (first, low, high) = (high[0].first, search(low), search(high));
    // A conditional jump reaches 255 instructions only, an unconditional one any number.
    let mut code = match u8::try_from(low.len()) {
        Ok(len) => vec![jump(AT_LEAST, first, len, 0)],
        Err(_) => vec![jump(AT_LEAST, first, 0, 1), skip(low.len())],
    };
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(verdict: Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Examine(examination) => examine(examination),
        plain => vec![answer(plain)],
    }
}

fn examine(examination: Examination) -> Vec<Instruction> {
    match examination {
        Examination::Clone => vec![
            load(argument(0)),
            jump(ANY_BIT, NAMESPACES, 0, 1),
            answer(Verdict::Refuse),
            answer(Verdict::Allow),
        ],
        Examination::SocketPair => {
            let mut code = vec![load(argument(0))];
            code.extend(one_of(&[libc::AF_UNIX], libc::EAFNOSUPPORT));
            code.push(answer(Verdict::Allow));
            code
        }
        Examination::Socket => socket(),
        Examination::Ioctl => vec![
            // The kernel looks at the low 32 bits of the request only, and so does this.
            load(argument(1)),
            jump(EQUAL, TIOCSTI, 2, 0),
            jump(EQUAL, TIOCLINUX, 1, 0),
            answer(Verdict::Allow),
            answer(Verdict::Refuse),
        ],
        Examination::Personality => {
            let mut code = vec![load(argument(0))];
            code.extend(one_of(&PERSONALITIES, libc::EPERM));
            code.push(answer(Verdict::Allow));
            code
        }
    }
}

/// AF_UNIX; AF_NETLINK only for NETLINK_ROUTE (protocol 0), which C libraries ask for the list of
/// interfaces; IP with the protocols that are usual, so that no other protocol's module is loaded.
fn socket() -> Vec<Instruction> {
    let ip = {
        let mut code = vec![load(argument(2))];
        code.extend(one_of(&IP_PROTOCOLS, libc::EPROTONOSUPPORT));
        code.push(answer(Verdict::Allow));
        code
    };
    let netlink = vec![
        load(argument(2)),
        jump(EQUAL, 0, 1, 0),
        refuse(libc::EPROTONOSUPPORT),
        answer(Verdict::Allow),
    ];
    let (to_ip, to_netlink) = (6, 2);
    let mut code = vec![
        load(argument(0)),
        jump(EQUAL, libc::AF_UNIX.cast_unsigned(), 4, 0),
        jump(EQUAL, libc::AF_NETLINK.cast_unsigned(), to_netlink + 2, 0),
        jump(EQUAL, libc::AF_INET.cast_unsigned(), to_ip + 1, 0),
        jump(EQUAL, libc::AF_INET6.cast_unsigned(), to_ip, 0),
        refuse(libc::EAFNOSUPPORT),
        answer(Verdict::Allow),
    ];
    code.extend(netlink);
    code.extend(ip);
    code
}

/// Goes on behind itself when the accumulator is one of `values`, else answers `errno`.
fn one_of(values: &[i32], errno: i32) -> Vec<Instruction> {
    let mut code: Vec<Instruction> = vec![];
    for (at, value) in values.iter().enumerate() {
        let over = u8::try_from(values.len() - at).unwrap_or(u8::MAX);
        code.push(jump(EQUAL, value.cast_unsigned(), over, 0));
    }
    code.push(refuse(errno));
    code
}

fn answer(verdict: Verdict) -> Instruction {
    match verdict {
        Verdict::Allow => instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        Verdict::Missing => refuse(libc::ENOSYS),
        // An examined call never gets here; were it to, refusing is the safe answer.
        Verdict::Refuse | Verdict::Examine(_) => refuse(libc::EPERM),
    }
}

fn refuse(errno: i32) -> Instruction {
    let errno = errno.cast_unsigned() & libc::SECCOMP_RET_DATA;
    instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno)
}

fn load(offset: u32) -> Instruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump(test: u32, value: u32, yes: u8, no: u8) -> Instruction {
    let code = u16::try_from(libc::BPF_JMP | test | libc::BPF_K).unwrap_or_default();
    Instruction { code, jt: yes, jf: no, k: value }
}

fn skip(instructions: usize) -> Instruction {
    let over = u32::try_from(instructions).unwrap_or(u32::MAX);
    instruction(libc::BPF_JMP | libc::BPF_JA, over)
}

fn instruction(code: u32, value: u32) -> Instruction {
    Instruction { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k: value }
}

/// Offset of the low half of argument `index` in struct seccomp_data (include/uapi/linux/
/// seccomp.h) on a little-endian processor.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const EQUAL: u32 = libc::BPF_JEQ;
const AT_LEAST: u32 = libc::BPF_JGE;
const ANY_BIT: u32 = libc::BPF_JSET;

// AUDIT_ARCH_* of include/uapi/linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();

// include/uapi/asm-generic/ioctls.h and tty_ioctl(2).
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// Linux, the 32-bit one and those with UNAME26, and the question for the current one (-1).
const PERSONALITIES: [i32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, -1];

/// Any, ICMP, TCP, UDP, ICMPv6.
const IP_PROTOCOLS: [i32; 5] = [0, 1, 6, 17, 58];

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    /// Runs a program as the kernel would, for the instructions that are used here.
    fn run(program: &[Instruction], data: &[u32; 16]) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let test = |yes: bool| usize::from(if yes { jt } else { jf });
            let code = u32::from(code);
            match code & 7 {
                libc::BPF_RET => return k,
                libc::BPF_LD => held = data[k as usize / 4],
                libc::BPF_JMP => match code & 0xf0 {
                    libc::BPF_JA => at += k as usize,
                    libc::BPF_JEQ => at += test(held == k),
                    libc::BPF_JGE => at += test(held >= k),
                    libc::BPF_JSET => at += test(held & k != 0),
                    other => panic!("jump {other:x}"),
                },
                other => panic!("class {other:x}"),
            }
        }
    }

    fn ask(arch: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let mut data = [0; 16];
        (data[0], data[1]) = (number, arch);
        for (at, argument) in arguments.into_iter().enumerate() {
            data[4 + 2 * at] = argument;
        }
        run(&program(&rules::table()), &data)
    }

    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.cast_unsigned()
    }

    #[test]
    fn every_number_gets_its_verdict() {
        let table = rules::table();
        for number in 0..1024 {
            let want = match table.get(&number) {
                Some(Verdict::Examine(_)) => continue,
                Some(Verdict::Allow) => libc::SECCOMP_RET_ALLOW,
                Some(Verdict::Refuse) => errno(libc::EPERM),
                Some(Verdict::Missing) | None => errno(libc::ENOSYS),
            };
            assert_eq!(ask(ARCH, number, [0; 3]), want, "number {number}");
            assert_eq!(ask(ARCH, number | 0x4000_0000, [0; 3]), errno(libc::ENOSYS), "x32");
            assert_eq!(ask(0x4000_0003, number, [0; 3]), errno(libc::ENOSYS), "i386");
        }
        assert_eq!(ask(ARCH, u32::MAX, [0; 3]), errno(libc::ENOSYS));
    }

    #[test]
    fn arguments_decide() {
        let allow = libc::SECCOMP_RET_ALLOW;
        let call = |number: i64, arguments: [i32; 3], want: u32| {
            let number = u32::try_from(number).expect("a syscall number");
            let arguments = arguments.map(i32::cast_unsigned);
            assert_eq!(ask(ARCH, number, arguments), want, "{number} {arguments:x?}");
        };
        call(libc::SYS_clone, [libc::CLONE_VM | libc::CLONE_THREAD, 0, 0], allow);
        call(libc::SYS_clone, [libc::CLONE_NEWUSER, 0, 0], errno(libc::EPERM));
        call(libc::SYS_clone, [libc::CLONE_NEWNET | libc::SIGCHLD, 0, 0], errno(libc::EPERM));
        call(libc::SYS_socket, [libc::AF_UNIX, 1, 0], allow);
        call(libc::SYS_socket, [libc::AF_INET, 1, 6], allow);
        call(libc::SYS_socket, [libc::AF_INET6, 2, 17], allow);
        call(libc::SYS_socket, [libc::AF_INET, 1, 132], errno(libc::EPROTONOSUPPORT));
        call(libc::SYS_socket, [libc::AF_NETLINK, 3, 0], allow);
        call(libc::SYS_socket, [libc::AF_NETLINK, 3, 12], errno(libc::EPROTONOSUPPORT));
        for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, 0, 100] {
            call(libc::SYS_socket, [family, 1, 0], errno(libc::EAFNOSUPPORT));
        }
        call(libc::SYS_socketpair, [libc::AF_UNIX, 1, 0], allow);
        call(libc::SYS_socketpair, [libc::AF_INET, 1, 0], errno(libc::EAFNOSUPPORT));
        call(libc::SYS_ioctl, [0, 0x5412, 0], errno(libc::EPERM));
        call(libc::SYS_ioctl, [0, 0x541c, 0], errno(libc::EPERM));
        call(libc::SYS_ioctl, [0, 0x5401, 0], allow);
        call(libc::SYS_personality, [-1, 0, 0], allow);
        call(libc::SYS_personality, [0x004_0000, 0, 0], errno(libc::EPERM));
    }

    #[test]
    fn is_short() {
        let length = program(&rules::table()).len();
        assert!(length < 256, "{length} instructions");
    }
}
