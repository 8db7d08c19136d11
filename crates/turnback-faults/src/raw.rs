//! The kernel's tracing interface, and the only `unsafe` of this crate.
//!
//! Every function here is one system call (or a few that belong together) on a process that this thread
//! started and traces. Nothing here keeps a pointer: buffers are borrowed for the length of the call, and
//! memory of the traced process is only ever copied, never mapped.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// A thread of the traced process.
pub(crate) type Tid = libc::pid_t;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A `ptrace` request that takes numbers only.
fn ptrace(request: libc::c_uint, tid: Tid, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: every request made through here takes plain numbers for both arguments, or ignores them.
    check(unsafe { libc::ptrace(request, tid, address, data) }).map(drop)
}

/// Starts a command that stops in its first instruction, traced by this thread, with a filter that reports
/// the `calls` of it and of everything it starts. It dies with this thread.
pub(crate) fn spawn(command: &mut Command, calls: &[libc::c_long]) -> io::Result<Child> {
    let filter = filter(calls);
    let install = move || {
        // SAFETY: between fork and exec only system calls are made, on memory that was allocated before:
        // `program` points into `filter`, which the closure owns.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0))?;
            let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
            check(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)).map(drop)
        }
    };
    // SAFETY: `install` allocates nothing and takes no lock.
    let child = unsafe { command.pre_exec(install) }.spawn()?;
    let tid = tid_of(child.id());
    // The exec that `spawn` has just seen succeed stops the child before its first own call.
    wait(Some(tid))?;
    let options = libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options as usize)?;
    Ok(child)
}

/// The thread a process begins with.
pub(crate) fn tid_of(pid: u32) -> Tid {
    Tid::try_from(pid).unwrap_or(Tid::MAX)
}

/// A program for seccomp: these calls stop, all others pass.
fn filter(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let step = |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut program = vec![step(load, offset_of!(libc::seccomp_data, nr) as u32, 0, 0)];
    for call in calls {
        program.push(step(equal, *call as u32, 0, 1));
        program.push(step(answer, libc::SECCOMP_RET_TRACE, 0, 0));
    }
    program.push(step(answer, libc::SECCOMP_RET_ALLOW, 0, 0));
    program
}

/// What a traced thread did.
#[derive(Debug)]
pub(crate) enum Happened {
    /// It is about to make a call the filter reports.
    Enters(Tid),
    /// A call it was resumed into is over.
    Left(Tid),
    /// It stopped for something that does not concern us; it is to go on with this signal.
    Stopped(Tid, libc::c_int),
    /// It is gone; this is its wait status.
    Gone(Tid, i32),
}

/// Waits for any traced thread of this one, or for one of them.
pub(crate) fn wait(tid: Option<Tid>) -> io::Result<Happened> {
    let mut status = 0;
    let tid = loop {
        // Without __WNOTHREAD this would take what other threads of this process wait for.
        // SAFETY: `status` is a valid place for the kernel to write to.
        let found = unsafe { libc::waitpid(tid.unwrap_or(-1), &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        match check(found.into()) {
            Ok(_) => break found,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    };
    if !libc::WIFSTOPPED(status) {
        return Ok(Happened::Gone(tid, status));
    }
    Ok(match (libc::WSTOPSIG(status), status >> 16) {
        (_, libc::PTRACE_EVENT_SECCOMP) => Happened::Enters(tid),
        (signal, _) if signal == libc::SIGTRAP | 0x80 => Happened::Left(tid),
        // Events of tracing itself, and the stop every new thread begins with.
        (_, 1..) | (libc::SIGSTOP | libc::SIGTRAP, _) => Happened::Stopped(tid, 0),
        (signal, _) => Happened::Stopped(tid, signal),
    })
}

/// Lets a stopped thread go on.
pub(crate) fn resume(tid: Tid, signal: libc::c_int) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, signal as usize)
}

/// Lets a stopped thread go on until its call is over.
pub(crate) fn resume_to_end_of_call(tid: Tid, signal: libc::c_int) -> io::Result<()> {
    ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as usize)
}

/// Kills a process as `kill -9` does.
pub(crate) fn kill(pid: Tid) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(pid, libc::SIGKILL) }.into()).map(drop)
}

/// The registers of a stopped thread.
pub(crate) struct Registers {
    tid: Tid,
    words: arch::Registers,
}

impl Registers {
    pub(crate) fn of(tid: Tid) -> io::Result<Self> {
        // SAFETY: the registers are plain numbers, for which zeroes are valid.
        let mut words: arch::Registers = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: (&raw mut words).cast(), iov_len: size_of::<arch::Registers>() };
        // SAFETY: `part` describes `words`, and the kernel writes no more than it says.
        let done = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, libc::NT_PRSTATUS as usize, &raw mut part) };
        check(done)?;
        Ok(Self { tid, words })
    }

    pub(crate) fn number(&self) -> libc::c_long {
        arch::number(&self.words)
    }

    pub(crate) fn argument(&self, n: usize) -> u64 {
        arch::argument(&self.words, n)
    }

    pub(crate) fn set_argument(&mut self, n: usize, value: u64) -> io::Result<()> {
        arch::set_argument(&mut self.words, n, value);
        self.store()
    }

    pub(crate) fn result(&self) -> i64 {
        arch::result(&self.words)
    }

    pub(crate) fn set_result(&mut self, value: i64) -> io::Result<()> {
        arch::set_result(&mut self.words, value);
        self.store()
    }

    /// Makes the call that is about to be made none at all. Its result is to be set when it is over.
    pub(crate) fn skip(&mut self) -> io::Result<()> {
        if arch::skip(&mut self.words) {
            return self.store();
        }
        let mut number: libc::c_int = -1;
        let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<libc::c_int>() };
        // SAFETY: `part` describes `number`, which the kernel only reads.
        let done = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, self.tid, arch::NT_ARM_SYSTEM_CALL, &raw mut part) };
        check(done).map(drop)
    }

    fn store(&mut self) -> io::Result<()> {
        let mut part = libc::iovec { iov_base: (&raw mut self.words).cast(), iov_len: size_of::<arch::Registers>() };
        // SAFETY: `part` describes our registers, which the kernel only reads.
        let done = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, self.tid, libc::NT_PRSTATUS as usize, &raw mut part) };
        check(done).map(drop)
    }
}

/// Copies memory of a stopped thread; fewer bytes than asked for where its memory ends.
pub(crate) fn read_memory(tid: Tid, address: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; length];
    let ours = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let theirs = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: `ours` describes `bytes`; `theirs` is looked up in the other process, where a wrong address
    // is an error and not harmful.
    let copied = unsafe { libc::process_vm_readv(tid, &raw const ours, 1, &raw const theirs, 1, 0) };
    bytes.truncate(usize::try_from(check(copied as libc::c_long)?).unwrap_or(0));
    Ok(bytes)
}

/// Overwrites memory of a stopped thread.
pub(crate) fn write_memory(tid: Tid, address: u64, bytes: &[u8]) -> io::Result<()> {
    let ours = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let theirs = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: `ours` describes `bytes`, which are only read; `theirs` as above.
    let copied = unsafe { libc::process_vm_writev(tid, &raw const ours, 1, &raw const theirs, 1, 0) };
    match check(copied as libc::c_long)? as usize == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    pub(super) type Registers = libc::user_regs_struct;

    /// Never used here: the number of the call is among the registers.
    pub(super) const NT_ARM_SYSTEM_CALL: usize = 0;

    pub(super) fn number(words: &Registers) -> libc::c_long {
        words.orig_rax as libc::c_long
    }

    pub(super) fn argument(words: &Registers, n: usize) -> u64 {
        [words.rdi, words.rsi, words.rdx, words.r10, words.r8, words.r9].get(n).copied().unwrap_or(0)
    }

    pub(super) fn set_argument(words: &mut Registers, n: usize, value: u64) {
        match n {
            0 => words.rdi = value,
            1 => words.rsi = value,
            2 => words.rdx = value,
            3 => words.r10 = value,
            4 => words.r8 = value,
            _ => words.r9 = value,
        }
    }

    pub(super) fn result(words: &Registers) -> i64 {
        words.rax as i64
    }

    pub(super) fn set_result(words: &mut Registers, value: i64) {
        words.rax = value as u64;
    }

    pub(super) fn skip(words: &mut Registers) -> bool {
        words.orig_rax = u64::MAX;
        true
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    pub(super) type Registers = libc::user_regs_struct;

    /// The kernel keeps the number of the call apart from the registers.
    pub(super) const NT_ARM_SYSTEM_CALL: usize = 0x404;

    pub(super) fn number(words: &Registers) -> libc::c_long {
        words.regs[8] as libc::c_long
    }

    pub(super) fn argument(words: &Registers, n: usize) -> u64 {
        words.regs[n]
    }

    pub(super) fn set_argument(words: &mut Registers, n: usize, value: u64) {
        words.regs[n] = value;
    }

    pub(super) fn result(words: &Registers) -> i64 {
        words.regs[0] as i64
    }

    pub(super) fn set_result(words: &mut Registers, value: i64) {
        words.regs[0] = value as u64;
    }

    pub(super) fn skip(_words: &mut Registers) -> bool {
        false
    }
}
