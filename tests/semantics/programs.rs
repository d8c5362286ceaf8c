//! Ordinary programs behave on the mount as on any folder.

use crate::common::Mount;

/// Runs a script on the mount as one application, then asks an outsider.
fn program(script: &str, check: &str, expected: &str) {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.patience(std::time::Duration::from_secs(300));
    w.sh(&format!("set -e\n{script}"));
    assert_eq!(r.sh(check), expected, "{script}");
    m.settled();
    m.nothing_quarantined();
}

/// For programs that a machine may lack: says so instead of passing silently.
fn have(program: &str) -> bool {
    let found = std::process::Command::new("/bin/sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        eprintln!("SKIPPED: {program} is not installed here");
    }
    found.status.success()
}

#[test]
fn s49_cp_mv_rm_find() {
    program(
        "mkdir -p a/b; for i in $(seq 50); do echo $i > a/b/$i; done; ln -s b/1 a/link; ln a/b/2 a/hard; chmod 600 a/b/3; touch -d @99 a/b/4
         cp -a a copy; mv a/b/5 a/moved; mv copy copied; rm -r a/b; cp copied/b/7 copied/b/8",
        "find . | sort | wc -l; cat copied/b/8 copied/link a/moved; stat -c %a copied/b/3; stat -c %Y copied/b/4; stat -c %h copied/hard; ls a",
        "59\n7\n1\n5\n600\n99\n2\nhard\nlink\nmoved\n",
    );
}

#[test]
fn s49_tar() {
    program(
        "mkdir s; for i in $(seq 40); do head -c $((i*1000)) /dev/zero | tr '\\0' x > s/$i; done; chmod 4755 s/1; touch -d @1000000 s/2
         tar cf s.tar s; mkdir o; tar xpf s.tar -C o; tar czf s.tgz s; tar tzf s.tgz > list; diff -r s o/s",
        "stat -c %a o/s/1; stat -c %Y o/s/2; wc -l < list; tar df s.tar && echo same || stat -c '%n %y %z' s/1 s/2 s/3 s/39",
        "4755\n1000000\n41\nsame\n",
    );
}

#[test]
fn s49_rsync() {
    if !have("rsync") {
        return;
    }
    program(
        "mkdir s; for i in $(seq 30); do seq $((i*100)) > s/$i; done
         rsync -a s/ d/; echo changed >> s/7; rm s/8; rsync -a --delete s/ d/; rsync -a --inplace s/ e/; echo more >> s/9; rsync -a --inplace s/ e/
         rsync -ac --append s/ g/",
        "diff -rq s d; diff -r s e; diff -r s g; ls -A d | wc -l",
        "Files s/9 and d/9 differ\n29\n",
    );
}

#[test]
fn s49_git() {
    program(
        "export HOME=$PWD GIT_CONFIG_NOSYSTEM=1; git config --global safe.directory '*'; git init -q repo; cd repo; git config user.email a@b; git config user.name n
         for i in $(seq 60); do seq $i > f$i; done; git add .; git commit -qm one; for i in $(seq 30); do echo x >> f$i; done; git commit -qam two
         git branch side HEAD^; git checkout -q side; echo y > new; git add new; git commit -qm three; git merge -q -m m main 2>/dev/null || git merge -q -m m master
         cd ..; git clone -q repo clone; cd clone; git gc -q; git fsck --full 2>&1",
        "cd clone; git -c safe.directory='*' status --short; git -c safe.directory='*' log --oneline | wc -l; wc -l < f30; cat new",
        "4\n31\ny\n",
    );
}

#[test]
fn s49_compilers() {
    if !have("gcc") || !have("make") {
        return;
    }
    program(
        "cat > a.c <<E
#include <stdio.h>
int b(void);
int main(void) { printf(\"%d\\\\n\", b()); return 0; }
E
         echo 'int b(void) { return 42; }' > b.c
         printf 'prog: a.o b.o\\n\\tgcc -o prog a.o b.o\\n%%.o: %%.c\\n\\tgcc -g -c $<\\n' > Makefile
         make -j4; ar rcs lib.a b.o; gcc -o second a.c lib.a; strip second",
        "./prog; ./second; ls; make -q && echo fresh",
        "42\n42\nMakefile\na.c\na.o\nb.c\nb.o\nlib.a\nprog\nsecond\nfresh\n",
    );
}

#[test]
fn s49_editors_and_filters() {
    program(
        "printf 'a\\nb\\nc\\n' > f; sed -i 's/b/B/' f; echo d >> f; printf '1i\\ntop\\n.\\nw\\nq\\n' | ed -s f; sort -o f -r f; tee g < f > /dev/null
         awk '{print NR, $0}' f > h; dd if=f of=patched bs=1 count=2 status=none; printf XY | dd of=patched bs=1 seek=1 conv=notrunc status=none
         split -l 2 f part.; cat part.* > joined; truncate -s 3 g; install -m 640 f installed; split -n 3 f n.; shuf f > f2; head -1 f > f3; : > empty",
        "cat f; echo -; cat h | wc -l; cat patched; echo; cmp joined f && echo joined; wc -c < g; stat -c %a installed; wc -l < f2; wc -c < empty",
        "top\nd\nc\na\nB\n-\n5\ntXY\njoined\n3\n640\n5\n0\n",
    );
}

#[test]
fn s49_vim() {
    if !have("vim") {
        return;
    }
    program(
        "printf 'one\\ntwo\\n' > f; chmod 640 f; vim -u NONE -N -es -c 's/two/2/' -c 'normal Othree' -c wq f
         vim -u NONE -N -es -c 'set backup backupskip= backupcopy=yes' -c '%s/one/1/' -c wq f; vim -u NONE -N -es -c 'set backupcopy=no nobackup' -c 'normal ofour' -c wq f",
        "sort f; stat -c %a f; ls",
        "1\n2\nfour\nthree\n640\nf\nf~\n",
    );
}

#[test]
fn s49_python() {
    if !have("python3") {
        return;
    }
    program(
        r#"python3 - <<'E'
import os, subprocess, shutil, tempfile, json, mmap
with open("a", "w") as f: f.write("x" * 100000)
with open("a", "r+") as f: f.seek(10); f.write("patch")
with open("b", "ab") as f:
    for i in range(10): f.write(b"%d\n" % i); f.flush()
with open("c", "w") as f: subprocess.run(["sh", "-c", "echo from a child; sleep 0"], stdout=f, check=True)
with open("d", "w") as f:
    f.write("before "); f.flush()
    subprocess.run(["true"], check=True)
    f.write("after")
fd, path = tempfile.mkstemp(dir="."); os.write(fd, b"temp"); os.close(fd); os.replace(path, "e")
with open("m", "wb+") as f:
    f.truncate(8192)
    with mmap.mmap(f.fileno(), 8192) as mm: mm[4096:4100] = b"mmap"
shutil.copytree(".", "copy", ignore=lambda d, n: ["copy"])
json.dump({"k": 1}, open("j.json", "w"))
E"#,
        "wc -c < a; cut -c11-15 a; wc -l < b; cat c d e; echo; tail -c +4097 m | head -c 4; echo; cat j.json; ls copy | wc -l",
        "100000\npatch\n10\nfrom a child\nbefore aftertemp\nmmap\n{\"k\": 1}6\n",
    );
}

#[test]
fn s49_many_small_files_by_many_processes() {
    program(
        "for p in $(seq 8); do (mkdir d$p; for i in $(seq 100); do echo $p.$i > d$p/$i; done) & done; wait
         ls d*/* | xargs -P 4 -n 20 sh -c 'for f; do mv $f $f.done; done' sh",
        "find . -name '*.done' | wc -l; cat d*/*.done | sort -u | wc -l; find . -type f ! -name '*.done'",
        "800\n800\n",
    );
}

#[test]
fn s49_a_program_is_built_and_run_while_its_source_changes() {
    program(
        "printf '#!/bin/sh\\necho one\\n' > s; chmod +x s; ./s > out; printf '#!/bin/sh\\necho two\\n' > s; ./s >> out
         cp /bin/true t; ./t; cp /bin/echo t; ./t three >> out",
        "cat out; stat -c %a s",
        "one\ntwo\nthree\n755\n",
    );
}
