//! Real programs on a mount, with their results checked: what people run must end as on ext4, and the second node must
//! see it.
//!
//! Needs `PROGRAM_PACKAGES` of scripts/lib/packages.sh. Programs that need shared mappings are in `mappings.rs`.

use crate::lockstep::scratch::Scratch;
use crate::{Cluster, run};

/// Programs look for their settings at home; a test's home is empty and its own.
const HOME: &str = r#"
    export HOME=$PWD/home LC_ALL=C; mkdir -p $HOME
    export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    git config --global init.defaultBranch main; git config --global safe.directory '*'
"#;

fn run_at_home(cluster: &Cluster, script: &str) -> String {
    run(cluster, &format!("{HOME}\n{script}"))
}

#[test]
fn git_clones_commits_packs_and_checks_whole_repositories() {
    let cluster = Cluster::start();
    run_at_home(
        &cluster,
        r#"
        git init -q --bare $A/origin.git; git clone -q $A/origin.git $A/one 2> /dev/null; cd $A/one
        for i in $(seq 20); do mkdir -p d$((i % 4)); seq $((i * 100)) > d$((i % 4))/f$i
            git add .; git commit -qm $i; done
        git mv d0/f4 moved; git rm -q d1/f1; ln -s moved link; chmod +x moved; git add .; git commit -qm names
        git push -q origin main; git clone -q file://$A/origin.git $A/two; git clone -q $A/origin.git $A/linked
        cd $A/two; git switch -qc side; echo side > side; git add side; git commit -qm side
        git switch -q main; echo main > main; git add main; git commit -qm main; git merge -q --no-edit side
        git push -q origin main side; git rebase -q --force-rebase HEAD~4; git reset -q --hard origin/main
        cd $A/one; git pull -q; git worktree add -q $A/tree side; [ "$(cat $A/tree/side)" = side ]
        git gc -q --aggressive --prune=now; git repack -qadf; git prune; git fsck --strict --full 2>&1 | tee seen
        grep -qE 'error|missing|corrupt|dangling' seen && exit 1; rm seen
        for at in $A/one $A/two $A/tree $A/linked; do
            [ -z "$(git -C $at status --porcelain)" ]; git -C $at fsck --full --strict
        done
        [ "$(git -C $B/one rev-parse main)" = "$(git -C $A/two rev-parse main)" ]
        [ "$(git -C $B/one log --oneline | wc -l)" = 24 ]; git -C $B/origin.git fsck --full --strict
        diff -r --exclude=.git $A/one $A/two; git worktree remove $A/tree; [ ! -e $B/tree ]
        "#,
    );
}

#[test]
fn sqlite_loses_no_update_of_processes_that_come_and_go() {
    let cluster = Cluster::start();
    for mode in ["delete", "truncate", "persist", "memory", "off"] {
        let script = r#"
            /usr/bin/python3 -m several_writers sqlite-MODE:full $A/MODE.db 3 12
            [ "$(sqlite3 $B/MODE.db 'PRAGMA integrity_check; SELECT n FROM t')" = "$(printf 'ok\n36')" ]
        "#;
        run(&cluster, &script.replace("MODE", mode));
    }
}

#[test]
fn rsync_copies_everything_once_and_nothing_the_second_time() {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    let script = r#"
        S=SCRATCH; mkdir -p $S/from/d/e; cd $S/from
        seq 10000 > d/n; ln d/n d/e/hard; ln -s ../d/n d/soft; ln -s nowhere dangling; mkfifo d/fifo; : > empty
        truncate -s 1M sparse; printf x | dd of=sparse bs=1 seek=500000 conv=notrunc status=none
        setfattr -n user.note -v hello d/n; setfattr -n user.of -v directory d; setfattr -n trusted.t -v 1 empty
        chown 12:34 d/e; chmod 4750 empty; chmod 1777 d; touch -d '2001-02-03 04:05:06.789 UTC' d/n; chmod 0 sparse
        head -c 3000000 /dev/urandom > large
        rsync -aHAX --sparse $S/from/ $A/to/
        [ -z "$(rsync -aHAX --sparse --itemize-changes $S/from/ $A/to/)" ]
        [ -z "$(rsync -aHAXc --delete --dry-run --itemize-changes $S/from/ $A/to/)" ]
        [ -z "$(rsync -aHAXc --delete --dry-run --itemize-changes $S/from/ $B/to/)" ]
        [ "$(stat -c %h $B/to/d/n)" = 2 ]
        echo more >> $S/from/large; rm $S/from/empty; rsync -aHAX --delete --inplace $S/from/ $A/to/
        [ -z "$(rsync -aHAXc --delete --dry-run --itemize-changes $S/from/ $B/to/)" ]
        rsync -aHAX $A/to/ $A/again/; [ -z "$(rsync -aHAXc --itemize-changes $A/to/ $A/again/)" ]
        rsync -aHAX $A/to/ $S/back/; [ -z "$(rsync -aHAXc --itemize-changes $S/from/ $S/back/)" ]
    "#;
    run(
        &cluster,
        &script.replace("SCRATCH", &scratch.path().display().to_string()),
    );
}

#[test]
fn tar_and_cp_keep_everything_that_they_are_asked_to_keep() {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    let script = r#"
        S=SCRATCH; W=$PWD; mkdir -p $A/from/d; cd $A/from
        seq 10000 > d/n; ln d/n hard; ln -s d/n soft; mkfifo fifo; mknod null c 1 3; truncate -s 1M sparse
        printf x | dd of=sparse bs=1 seek=500000 conv=notrunc status=none
        setfattr -n user.note -v hello d/n; chown 12:34 d/n; chmod 2751 d; touch -d '2001-02-03 04:05:06.789 UTC' d/n d
        for name in $(seq 60); do echo $name > d/many$name; done
        print() { (cd $1; find . -printf '%p %y %m %U:%G %s %n %l\n' | sed -E 's/^(\S+ d \S+ \S+) .*/\1/' | sort
            find . -type f -printf '%p %T@\n' | sort; find . -type f -exec sha256sum {} + | sort -k2
            find . ! -type l | sort | xargs getfattr -hd -m - --); }
        print $A/from > $W/one
        tar -cf $A/all.tar --xattrs --format=pax -S -C $A from; mkdir $A/tar $S/tar
        tar -xf $A/all.tar --xattrs --xattrs-include='*' -C $A/tar; print $A/tar/from > $W/two; diff $W/one $W/two
        tar -xf $B/all.tar --xattrs --xattrs-include='*' -C $S/tar; print $S/tar/from > $W/two; diff $W/one $W/two
        tar -df $A/all.tar -C $A
        cp -a $A/from $A/cp; print $A/cp > $W/two; diff $W/one $W/two; print $B/cp > $W/two; diff $W/one $W/two
        cp -a $A/from $S/cp; print $S/cp > $W/two; diff $W/one $W/two;
        cp -a $S/cp $A/back; print $A/back > $W/two; diff $W/one $W/two
        mv $A/cp $S/moved; print $S/moved > $W/two; diff $W/one $W/two; [ ! -e $B/cp ]
        mv $S/moved $A/cp; print $B/cp > $W/two; diff $W/one $W/two
        rm -r $A/cp $A/tar; [ ! -e $B/tar ]
    "#;
    run(
        &cluster,
        &script.replace("SCRATCH", &scratch.path().display().to_string()),
    );
}

#[test]
fn make_builds_once_in_parallel_and_then_has_nothing_to_do() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir $A/src; cd $A/src; seq 30 | while read i; do echo "int f$i(void) { return $i; }" > f$i.c; done
        { seq 30 | sed 's/.*/int f&(void);/'; echo 'int main(void) { return'
          seq 30 | sed 's/.*/f&() +/'; echo '0 != 465; }'; } > main.c
        printf 'objects = $(patsubst %%.c,%%.o,$(wildcard *.c))\nprogram: $(objects)\n\tcc -o $@ $^\n' > Makefile
        make -j8 > log; ./program; make -q; [ "$(make -j8)" = "make: 'program' is up to date." ]
        touch f7.c; make -j8 | grep -c '^cc' | grep -qx 2; make -q; cp program again; $B/src/again; make -q -C $B/src
        "#,
    );
}

#[test]
fn cargo_builds_a_crate_and_the_second_build_is_fresh() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        cargo=$(command -v cargo || echo ${CARGO_HOME:-$HOME/.cargo}/bin/cargo); unset CARGO_TARGET_DIR
        mkdir -p $A/crate/src $A/crate/tests; cd $A/crate
        printf '[package]\nname = "tiny"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' > Cargo.toml
        echo 'pub fn answer() -> u32 { 42 }' > src/lib.rs
        echo 'fn main() { println!("{}", tiny::answer()); }' > src/main.rs
        echo '#[test] fn it_is() { assert_eq!(tiny::answer(), 42); }' > tests/it.rs
        $cargo build --offline; [ "$(target/debug/tiny)" = 42 ]
        $cargo build --offline 2>&1 | grep Compiling && exit 1
        echo 'pub fn answer() -> u32 { 43 }' > src/lib.rs; $cargo build --offline
        [ "$($B/crate/target/debug/tiny)" = 43 ]
        (cd $B/crate; $cargo build --offline -v > said 2>&1; grep Finished said; grep Compiling said && exit 1; rm said)
        $cargo clean; [ ! -e $B/crate/target ]
        "#,
    );
}

#[test]
fn pip_and_npm_install_from_local_archives() {
    let cluster = Cluster::start();
    run_at_home(
        &cluster,
        r#"
        cd $A; python3 - <<'PY'
import zipfile
info = 'tiny-1.0.dist-info/'
with zipfile.ZipFile('tiny-1.0-py3-none-any.whl', 'w') as wheel:
    for n in range(50): wheel.writestr(f'tiny/m{n}.py', f'number = {n}\n')
    wheel.writestr('tiny/__init__.py', 'from tiny.m42 import number\n')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr(info + 'RECORD', '')
PY
        python3 -m venv --without-pip --system-site-packages env
        pip() { python3 -m pip --disable-pip-version-check --no-cache-dir -q --python env/bin/python "$@"; }
        pip install --no-index ./tiny-1.0-py3-none-any.whl
        [ "$($B/env/bin/python -c 'import tiny; print(tiny.number)')" = 42 ]; pip uninstall -y tiny
        $B/env/bin/python -c 'import tiny' 2> /dev/null && exit 1
        mkdir -p package app; echo '{"name":"tiny","version":"1.0.0","bin":{"tiny":"run.js"}}' > package/package.json
        printf '#!/usr/bin/env node\nconsole.log(42)\n' > package/run.js; chmod +x package/run.js
        tar -czf tiny.tgz package; cd app; echo '{"name":"app","version":"1.0.0"}' > package.json
        npm install --offline --no-audit --no-fund --cache $A/cache ../tiny.tgz > /dev/null
        [ "$($B/app/node_modules/.bin/tiny)" = 42 ]; npm ls --offline | grep -q tiny@1.0.0
        rm -r node_modules; npm ci --offline --no-audit --no-fund --cache $A/cache > /dev/null
        [ "$($B/app/node_modules/.bin/tiny)" = 42 ]
        "#,
    );
}

#[test]
fn editors_save_in_their_own_ways() {
    let cluster = Cluster::start();
    run_at_home(
        &cluster,
        r#"
        seq 1000 > $A/text; ln $A/text $A/hard; chmod 640 $A/text; chown 12:34 $A/text; inode=$(stat -c %i $A/text)
        # Below /tmp vim makes no backups of its own accord.
        vim() { command vim -es -u NONE -N -i NONE -c 'set backupskip=' "$@"; }
        vim -c 'set backupcopy=yes' -c '%s/^7$/seven/' -c wq $A/text; grep -qx seven $B/hard
        [ "$(stat -c %i $A/text)" = $inode ]
        vim -c 'set backupcopy=no' -c '%s/^8$/eight/' -c wq $A/text; grep -qx eight $B/text
        grep -qx eight $B/hard && exit 1; [ "$(stat -c %a,%u:%g $B/text)" = 640,12:34 ]
        vim -c 'set backup backupext=.old writebackup' -c '1d' -c wq $A/text; diff <(sed 1d $B/text.old) $B/text
        sed -i.bak 's/^9$/nine/' $A/text; grep -qx nine $B/text; grep -qx 9 $B/text.bak
        sed -i -s 2d $A/text $A/text.bak
        perl -pi -e 's/^10$/ten/' $A/text; grep -qx ten $B/text; [ "$(ls -A $A | grep -c swp)" = 0 ]
        [ "$(stat -c %a,%u:%g $B/text)" = 640,12:34 ]
        sort -o $A/text $A/text; sort -c $B/text; shuf $A/text -o $A/text; [ "$(wc -l < $B/text)" = 998 ]
        patch -s $A/text <(diff -u $A/text <(sort $A/text)) || exit 1; sort -c $B/text
        "#,
    );
}

#[test]
fn dpkg_installs_upgrades_and_purges_below_a_root() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        package() { # VERSION FILES
            rm -rf build; mkdir -p build/DEBIAN build/usr/share/tiny build/etc; seq $2 | while read i; do
                echo $1 $i > build/usr/share/tiny/f$i; done; echo "default $1" > build/etc/tiny.conf
            ln -s f1 build/usr/share/tiny/link; ln build/usr/share/tiny/f2 build/usr/share/tiny/hard
            echo /etc/tiny.conf > build/DEBIAN/conffiles
            printf 'Package: tiny\nVersion: %s\nArchitecture: all\nMaintainer: a\nDescription: d\n' $1 \
                > build/DEBIAN/control
            dpkg-deb -b build tiny_$1.deb > /dev/null
        }
        package 1 60; package 2 40
        mkdir -p $A/root/var/lib/dpkg/updates $A/root/var/lib/dpkg/info $A/root/etc; : > $A/root/var/lib/dpkg/status
        dpkg="dpkg --root=$A/root --force-not-root --force-bad-path"
        $dpkg -i tiny_1.deb > /dev/null; [ "$(cat $B/root/usr/share/tiny/f60)" = '1 60' ]; $dpkg --verify tiny
        echo mine > $A/root/etc/tiny.conf; $dpkg --force-confold -i tiny_2.deb > /dev/null
        [ "$(cat $B/root/usr/share/tiny/hard)" = '2 2' ]; [ ! -e $B/root/usr/share/tiny/f60 ]
        [ "$(cat $B/root/etc/tiny.conf)" = mine ]; [ "$(cat $B/root/etc/tiny.conf.dpkg-dist)" = 'default 2' ]
        [ "$($dpkg -l tiny | awk 'END { print $1, $3 }')" = 'ii 2' ]; [ -z "$($dpkg --audit)" ]
        $dpkg -r tiny > /dev/null; [ -e $B/root/etc/tiny.conf ]
        $dpkg -P tiny > /dev/null; [ ! -e $B/root/etc/tiny.conf ]
        [ ! -e $B/root/usr/share/tiny ]
        "#,
    );
}

/// A writer that keeps its descriptor goes on in the emptied file, without a hole where its old bytes were.
#[test]
fn logrotate_copies_and_truncates_under_a_writer_that_goes_on() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir -m 755 $A/log; chmod 755 .; conf=$PWD/rotate.conf
        printf '%s/log/x.log {\n copytruncate\n rotate 3\n size 1\n missingok\n}\n' $A > $conf; chmod 644 $conf
        exec 3>> $A/log/x.log
        for round in 1 2 3; do
            for i in $(seq 100); do echo "$round $i" >&3; done
            [ "$(wc -l < $B/log/x.log)" = 100 ]
            logrotate -f -s $PWD/state $conf; [ "$(stat -c %s $B/log/x.log)" = 0 ]
            [ "$(wc -l < $B/log/x.log.1)" = 100 ]; [ "$(tail -n1 $B/log/x.log.1)" = "$round 100" ]
        done
        echo last >&3; [ "$(cat $B/log/x.log)" = last ]; [ "$(cat $B/log/x.log.* | sort -u | wc -l)" = 300 ]
        exec 3>&-; [ "$(ls $B/log | wc -l)" = 4 ]
        "#,
    );
}

#[test]
fn the_tree_is_the_lower_layer_of_an_overlay() {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    let script = r#"
        S=SCRATCH; mkdir -p $A/lower/d $S/upper $S/work merged; seq 1000 > $A/lower/d/n; echo keep > $A/lower/keep
        echo gone > $A/lower/gone; ln -s d/n $A/lower/link; chmod 640 $A/lower/d/n
        setfattr -n user.x -v 1 $A/lower/keep
        mount -t overlay overlay -o lowerdir=$A/lower,upperdir=$S/upper,workdir=$S/work merged
        trap 'cd /; umount -l '$PWD/merged EXIT
        cd merged; cmp d/n $B/lower/d/n; cmp link d/n; echo more >> d/n; rm gone; mv d e; [ "$(wc -l < e/n)" = 1001 ]
        [ "$(stat -c %a e/n)" = 640 ]; [ "$(getfattr --only-values -n user.x keep)" = 1 ]
        rm -r e; mkdir d; [ -z "$(ls d)" ]
        chmod 600 keep; echo changed > keep; [ "$(ls)" = "$(printf 'd\nkeep\nlink')" ]
        [ "$(cat $B/lower/gone $B/lower/keep)" = "$(printf 'gone\nkeep')" ]; [ "$(wc -l < $A/lower/d/n)" = 1000 ]
        [ "$(stat -c %a $B/lower/keep)" = 644 ]
    "#;
    run(
        &cluster,
        &script.replace("SCRATCH", &scratch.path().display().to_string()),
    );
}

#[test]
fn a_file_of_the_tree_is_mounted_as_a_disk() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        truncate -s 12M $A/disk; mkfs.ext4 -q $A/disk; mkdir disk again
        trap 'umount -l disk again 2> /dev/null || true' EXIT
        mount -o loop $A/disk disk; seq 100000 > disk/n; mkdir disk/d; cp disk/n disk/d; sum=$(sha256sum < disk/n)
        sync -f disk; [ "$(sha256sum < disk/d/n)" = "$sum" ]; umount disk
        e2fsck -fn $A/disk > /dev/null 2>&1; cmp $A/disk $B/disk
        mount -o loop,ro,noload $B/disk again; [ "$(sha256sum < again/d/n)" = "$sum" ]; umount again
        until [ -z "$(losetup -j $A/disk; losetup -j $B/disk)" ]; do :; done
        "#,
    );
}
