package db_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
)

// The tests here run this test binary again as a child and kill it. childEnv
// tells it what to do.
const childEnv = "PULK_TEST_CHILD"

// runChild does what the environment asks for and reports whether it did.
func runChild() bool {
	args := strings.Fields(os.Getenv(childEnv))
	if len(args) == 0 {
		return false
	}
	switch args[0] {
	case "lock":
		d, err := db.Open(args[1], nil)
		switch {
		case errors.Is(err, db.ErrLocked):
			fmt.Print("locked")
		case err != nil:
			fmt.Print(err)
		default:
			fmt.Print("opened")
			d.Close()
		}
	case "hold":
		holdUntilKilled(args[1], args[2])
	case "write":
		writeUntilKilled(args[1], args[2], args[3:])
	case "bank":
		bankUntilKilled(args[1], args[2])
	case "restore":
		restoreUntilKilled(args[1], args[2])
	case "soak":
		soakUntilKilled(args[1], args[2:])
	}
	return true
}

func child(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	return cmd
}

// runChildToEnd returns what the child prints.
func runChildToEnd(t testing.TB, args ...string) string {
	t.Helper()
	out, err := child(t, args...).Output()
	require.NoError(t, err)
	return string(out)
}

// A store can be opened again as soon as Close has returned, even while this
// process starts others, which for a moment share its open files.
func TestReopenWhileForking(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := child(t, "nothing").Run(); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	defer wait.Wait()
	defer close(stop)
	opts := db.Options{Durability: db.DurabilityNone}.Tiny()
	for i := range 200 {
		d, err := db.Open(dir, opts)
		require.NoError(t, err, "open %d", i)
		require.NoError(t, d.Close())
	}
}

const (
	killWriters  = 4
	keysOfWriter = 300
	syncEvery    = 40 // writes between two calls of Sync in a child that does not wait for each
)

// killOps returns write number n of writer w. It depends on nothing else, so
// the child that does it and the parent that checks it agree. Keys of all
// writers lie side by side, and those of a batch are spread over all leaves.
func killOps(w, n int) []db.Op {
	r := rand.New(rand.NewPCG(uint64(w), uint64(n)))
	count := 1
	if n%7 == 0 {
		count = 2 + r.IntN(40)
	}
	ops := make([]db.Op, count)
	for i := range ops {
		ops[i] = db.Op{Kind: db.OpSet, Key: fmt.Appendf(nil, "%04d/%d", r.IntN(keysOfWriter), w)}
		if r.IntN(4) == 0 {
			ops[i].Kind = db.OpDelete
			continue
		}
		value := fmt.Appendf(nil, "%d ", n)
		if r.IntN(100) == 0 {
			value = bytes.Repeat(value, 3000)
		}
		ops[i].Value = append(value, bytes.Repeat([]byte{'v'}, r.IntN(60))...)
	}
	return ops
}

func killOptions(size, durability string) *db.Options {
	opts := &db.Options{}
	if durability == "none" {
		opts.Durability = db.DurabilityNone
	}
	if size == "tiny" {
		return opts.Tiny()
	}
	return opts
}

// writeUntilKilled is the child. Its arguments are the directory, the options,
// and for each writer the number of its first write. It reports each writer's
// acknowledged writes on its output, as two numbers of 32 bits.
func writeUntilKilled(dir, options string, first []string) {
	size, durability, _ := strings.Cut(options, ",")
	report(opening, 0)
	d, err := db.Open(dir, killOptions(size, durability))
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	report(opened, 0)
	var wait sync.WaitGroup
	for w, s := range first {
		n, _ := strconv.Atoi(s)
		wait.Go(func() {
			for ; ; n++ {
				if err := write(d, killOps(w, n)); err != nil {
					fmt.Fprintln(os.Stderr, "child:", err)
					os.Exit(1)
				}
				if durability == "none" {
					if n%syncEvery != 0 {
						continue
					}
					if err := d.Sync(); err != nil {
						fmt.Fprintln(os.Stderr, "child:", err)
						os.Exit(1)
					}
				}
				report(w, n)
			}
		})
	}
	wait.Wait()
}

// What a child reports besides the numbers of writers.
const (
	opening = 1000 + iota
	opened
)

// report writes one report. So few bytes are written to a pipe as a whole.
func report(w, n int) {
	var p [8]byte
	binary.LittleEndian.PutUint32(p[:], uint32(w))
	binary.LittleEndian.PutUint32(p[4:], uint32(n))
	os.Stdout.Write(p[:])
}

// write does ops, more than one as a batch.
func write(d *db.DB, ops []db.Op) error {
	if len(ops) == 1 {
		if ops[0].Kind == db.OpDelete {
			return d.Delete(ops[0].Key)
		}
		return d.Set(ops[0].Key, ops[0].Value)
	}
	b := d.NewBatch()
	for _, op := range ops {
		var err error
		if op.Kind == db.OpDelete {
			err = b.Delete(op.Key)
		} else {
			err = b.Set(op.Key, op.Value)
		}
		if err != nil {
			return err
		}
	}
	return b.Commit()
}

// killing says how long the tests that kill go on, and how long they let a child live at
// most beside that: PULK_SOAK is a duration, with which children live for seconds.
func killing(life time.Duration) (goesOn func() bool, lives time.Duration) {
	soak, err := time.ParseDuration(os.Getenv("PULK_SOAK"))
	if err != nil {
		return func() bool { return false }, life
	}
	end := time.Now().Add(soak)
	return func() bool { return time.Now().Before(end) }, 5 * time.Second
}

// checkWhole looks through a store that was killed: nothing in it is wrong, and it takes
// no more space than it may.
func checkWhole(t *testing.T, d *db.DB, options string) {
	t.Helper()
	require.NoError(t, d.Verify(context.Background()))
	least := int64(churnLeast)
	if strings.HasPrefix(options, "large") {
		least = 64 << 20
	}
	m := d.Metrics().Space
	require.LessOrEqual(t, m.Bytes, 2*m.Live+least, "%+v", m)
}

// TestKill kills a child that writes, at random moments and also while it opens
// the store, and checks after each: every acknowledged write and batch is
// there, whole, and of each writer a prefix of its writes. The next child goes
// on with the same store.
func TestKill(t *testing.T) {
	tests := []struct {
		options string
		kills   int
	}{
		{"tiny,sync", 24},
		{"large,sync", 16},
		{"tiny,none", 12},
		{"large,none", 8},
	}
	var kills, duringOpen atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d kills, %d of them during Open", kills.Load(), duringOpen.Load())
		if !t.Failed() {
			require.NotZero(t, duringOpen.Load())
		}
	})
	for _, test := range tests {
		t.Run(test.options, func(t *testing.T) {
			t.Parallel()
			k := &killed{dir: t.TempDir(), options: test.options}
			// A kill may come before anything is on disk, where writes do not wait.
			goesOn, life := killing(150 * time.Millisecond)
			k.life = life
			for goesOn() || k.kills < test.kills || k.done == [killWriters]int{} && k.kills < 10*test.kills {
				k.kill(t)
				k.check(t)
			}
			t.Logf("%d kills, %d of them during Open; %v writes found", k.kills, k.duringOpen, k.done)
			kills.Add(int64(k.kills))
			duringOpen.Add(int64(k.duringOpen))
			require.NotEqual(t, [killWriters]int{}, k.done)
			crashtest.ReportCount(t, k.kills, "kills")
		})
	}
}

// A killed is a store whose writers are killed.
type killed struct {
	dir          string
	options      string
	life         time.Duration // of a child, at most
	kills        int
	duringOpen   int
	openTime     time.Duration    // of the last child that was let
	acknowledged [killWriters]int // last write of each writer that must be there
	done         [killWriters]int // last write of each writer that was found
	state        [killWriters]map[string]string
}

// killChild runs a child and kills it delay after its report at, which is opening or
// opened. What it reports of its writers goes to note. openTime is how long it took to
// open the store, 0 if it was killed before.
func killChild(t *testing.T, at int, delay time.Duration, note func(w, n int), args ...string) (openTime time.Duration) {
	cmd := child(t, args...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	begun := time.Now()
	for reports := bufio.NewReader(out); ; {
		var p [8]byte
		if _, err := io.ReadFull(reports, p[:]); err != nil {
			break
		}
		w, n := int(binary.LittleEndian.Uint32(p[:])), int(binary.LittleEndian.Uint32(p[4:]))
		if w == at {
			timer := time.AfterFunc(delay, func() { cmd.Process.Kill() })
			defer timer.Stop()
		}
		switch w {
		case opening:
			begun = time.Now()
		case opened:
			openTime = time.Since(begun)
		default:
			note(w, n)
		}
	}
	require.ErrorContains(t, cmd.Wait(), "killed", "the child ended by itself")
	return openTime
}

// kill runs a child, kills it, and notes what it had acknowledged.
func (k *killed) kill(t *testing.T) {
	args := []string{"write", k.dir, k.options}
	for _, n := range k.done {
		args = append(args, strconv.Itoa(n+1))
	}
	k.kills++
	delay := rand.N(k.life)
	if k.kills%3 == 0 {
		delay = rand.N(k.openTime + time.Microsecond)
	}
	openTime := killChild(t, opening, delay, func(w, n int) { k.acknowledged[w] = n }, args...)
	if openTime == 0 {
		k.duringOpen++
		return
	}
	k.openTime = openTime
}

// check opens the store, half of the times read-only, so that the next child
// finds it as the kill left it, and compares.
func (k *killed) check(t *testing.T) {
	size, durability, _ := strings.Cut(k.options, ",")
	opts := killOptions(size, durability)
	opts.ReadOnly = k.kills%4 < 2
	if opts.ReadOnly && k.done == [killWriters]int{} && k.acknowledged == [killWriters]int{} {
		opts.ReadOnly = false // the first child may have been killed before there was a store
	}
	d, err := db.Open(k.dir, opts)
	require.NoError(t, err, "kill %d", k.kills)
	defer func() { require.NoError(t, d.Close()) }()
	found := findWrites(t, d)
	for w := range found {
		k.match(t, w, found[w])
	}
	checkWhole(t, d, k.options)
}

// match finds the number of writes after which writer w's keys are as found.
func (k *killed) match(t *testing.T, w int, found map[string]string) {
	t.Helper()
	if k.state[w] == nil {
		k.state[w] = map[string]string{}
	}
	more := 1
	if strings.HasSuffix(k.options, "none") {
		more = syncEvery
	}
	from := max(k.done[w], k.acknowledged[w])
	n := matchWrites(t, w, k.state[w], found, k.done[w], from, max(k.done[w], k.acknowledged[w]+more))
	k.done[w], k.acknowledged[w] = n, n
}

// matchWrites returns the number of writes, from least to most, after which the
// keys of writer w are as found. state are its keys after done writes, and is
// brought up to what is returned. It fails the test if there is no such number.
func matchWrites(t *testing.T, w int, state, found map[string]string, done, least, most int) int {
	t.Helper()
	for n := done; ; n++ {
		if n > done {
			for _, op := range killOps(w, n) {
				if op.Kind == db.OpDelete {
					delete(state, string(op.Key))
				} else {
					state[string(op.Key)] = string(op.Value)
				}
			}
		}
		if n >= least && equal(state, found) {
			return n
		}
		if n >= most {
			require.FailNow(t, "not a prefix of the writes, or too short a one",
				"writer %d: at least %d must be there; with %d differ: %s", w, least, n, difference(state, found))
		}
	}
}

// findWrites returns the keys of each writer.
func findWrites(t *testing.T, d *db.DB) (found [killWriters]map[string]string) {
	t.Helper()
	for w := range found {
		found[w] = map[string]string{}
	}
	it := d.Scan(nil, nil)
	for key, value := range it.All() {
		got, err := d.Get(key)
		require.NoError(t, err)
		require.Equal(t, string(value), string(got))
		found[key[len(key)-1]-'0'][string(key)] = string(value)
	}
	require.NoError(t, it.Err())
	return found
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

// difference names some keys that differ and the writes they are from.
func difference(want, got map[string]string) string {
	var s []string
	brief := func(m map[string]string, key string) string {
		value, ok := m[key]
		if !ok {
			return "absent"
		}
		number, _, _ := strings.Cut(value, " ")
		return number
	}
	add := func(key string) {
		if want[key] != got[key] {
			s = append(s, fmt.Sprintf("%s: want %s, found %s", key, brief(want, key), brief(got, key)))
		}
	}
	for key := range want {
		add(key)
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			add(key)
		}
	}
	if len(s) > 10 {
		s = append(s[:10], fmt.Sprintf("and %d more", len(s)-10))
	}
	return strings.Join(s, "; ")
}
