"""Where untrusted programs run.

A program and its tests never share a process. The tests' process holds the tests and stand-ins for what the program
defines; the program's process knows the program and the arguments that it is called with. Between them goes plain
data (`plain`). Scripts with standard input know their input; their expected output stays with us.

What it protects from, in mode ``namespaces``: two kinds of servers, one of programs (`server`) and one of tests, each
in its own user, network, IPC, mount and pid namespaces, fork from a warm interpreter. A child is alone in a pid
namespace of its own, in a session of its own, without capabilities; it sees a read-only file system that holds the
standard library and shared libraries, and one empty temporary folder that nobody else sees and that is emptied after
it; its environment is empty. seccomp and Landlock (`walls`), where the kernel has them, refuse new processes, new
programs, sockets, signals to others, tracing, shared memory, mounts and kernel interfaces. CPU time, wall time,
address space, the size of files and outputs, and open files are limited. At its time limit the whole of it is killed,
with every process that it made, and when the parent ends, for whatever reason, so do the servers and all programs. The
cheats that reward-trained models find (leaving early, objects equal to everything, patched built-ins or asserts,
reading the expected outputs from frames or memory, printing what a harness prints) have nothing to reach: the tests
are not there.

Most programs with python tests define plain functions, whose code can name nothing that outlives them (`traceless`).
Those share a child, one after the other; each other program, and every script, has a child of its own. A fault in
that rule would let a program spoil those that run after it in the same child, and nothing else: around it are the
same walls, and the tests of all are elsewhere.

Mode ``weak`` (`DISTILL_SANDBOX=weak`) does without namespaces: what seccomp and Landlock refuse stays refused where
the kernel has them; where it has not, such a program can read the user's files, use the network, signal the user's
processes and leave processes behind.

What it does not protect from: faults of the kernel itself; side channels (timing, load); a program that tells its
own tests from the arguments that it gets and answers by a table; a helper that a problem's *tests* take from the
program (those of HumanEval's prompt are therefore put into the tests, see `distill.suites`); tests that ask a
program's objects about themselves: there the program's own ``==`` decides between two of its objects, and only
there. A list that a program keeps and changes after its call has ended is a copy, and the tests do not see the
change. Tests that hand over objects of their own classes are refused with ERROR, not guessed at.
"""

from distill.verify.sandbox.client import Sandbox, SandboxDied, sandbox
from distill.verify.sandbox.runs import Verdicted

__all__ = ["Sandbox", "SandboxDied", "Verdicted", "sandbox"]
