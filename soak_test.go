package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
)

const (
	soakWriters   = 3
	soakKeys      = 6000 // of each writer
	soakOperands  = 64   // bytes that the Merger keeps
	soakReport    = 100  // tellers report as this and their number
	soakLeast     = 24 * 64 << 10
	soakRowExtra  = 24 // bytes that a row takes in a page beside key and value, at most
	soakDelayOpen = 3  // every so many-th child is killed while it opens the store
)

// TestSoakKill kills a process that does all at once with one store, in the default
// durability: single writes, batches, range deletes, operands, large values, transactions
// and totals over snapshots, while pages are evicted, segments cleaned and page-table
// snapshots written. After each kill every acknowledged write is there, of each writer a
// prefix, no money is lost, the store verifies, and its files take at most twice what is
// live and the fixed least. PULK_SOAK says for how long.
func TestSoakKill(t *testing.T) {
	t.Parallel()
	const killsMin = 12
	goesOn, life := killing(500 * time.Millisecond)
	s := &soak{dir: filepath.Join(t.TempDir(), "store"), life: life}
	for w := range s.writers {
		s.writers[w].rows = map[string]string{}
	}
	for goesOn() || s.kills < killsMin || s.writers[0].done == 0 { // or the machine is busy
		s.kill(t)
		s.check(t)
	}
	writes, transfers := 0, uint64(0)
	for _, w := range s.writers {
		writes += w.done
	}
	for _, n := range s.transfers {
		transfers += n
	}
	crashtest.ReportCount(t, s.kills, "kills")
	t.Logf("%d kills, %d of them during Open; %d writes, %d transfers; at most %d KiB beyond twice what was live (%d allowed)",
		s.kills, s.duringOpen, writes, transfers, s.above>>10, soakLeast>>10)
}

func soakOptions() *db.Options {
	return db.Options{Merger: soakMerger, CacheSize: 256 << 10}.Tiny()
}

// soakMerger keeps the end of what was appended.
func soakMerger(_, base, operand []byte) ([]byte, error) {
	joined := append(bytes.Clone(base), operand...)
	return joined[max(0, len(joined)-soakOperands):], nil
}

func soakKey(w, i int) []byte { return fmt.Appendf(nil, "soak/%d/%05d", w, i) }

// soakOps returns write number n of writer w: the child does it, and the parent knows it.
func soakOps(w, n int) []db.Op {
	r := rand.New(rand.NewPCG(uint64(w), uint64(n)))
	count := 1
	if n%9 == 0 {
		count = 2 + r.IntN(40)
	}
	ops := make([]db.Op, count)
	for i := range ops {
		op := db.Op{Kind: db.OpSet, Key: soakKey(w, r.IntN(soakKeys))}
		switch x := r.IntN(100); {
		case x < 20:
			op.Kind = db.OpDelete
		case x < 35:
			op.Kind, op.Value = db.OpMerge, fmt.Appendf(nil, "+%d", n)
		case x < 36:
			from := r.IntN(soakKeys)
			op.Kind, op.Key, op.End = db.OpDeleteRange, soakKey(w, from), soakKey(w, from+r.IntN(60))
		case x < 37 && n%8 == 0:
			op.Value = bytes.Repeat(fmt.Appendf(nil, "%d ", n), 2+r.IntN(9000))
		default:
			op.Value = append(fmt.Appendf(nil, "%d ", n), bytes.Repeat([]byte{'v'}, r.IntN(200))...)
		}
		ops[i] = op
	}
	return ops
}

// soakWrite does ops, more than one as a batch.
func soakWrite(d *db.DB, ops []db.Op) error {
	var to interface {
		Set(key, value []byte) error
		Delete(key []byte) error
		DeleteRange(lo, hi []byte) error
		Merge(key, operand []byte) error
	} = d
	commit := func() error { return nil }
	if len(ops) > 1 {
		b := d.NewBatch()
		to, commit = b, b.Commit
	}
	for _, op := range ops {
		var err error
		switch op.Kind {
		case db.OpSet:
			err = to.Set(op.Key, op.Value)
		case db.OpDelete:
			err = to.Delete(op.Key)
		case db.OpDeleteRange:
			err = to.DeleteRange(op.Key, op.End)
		case db.OpMerge:
			err = to.Merge(op.Key, op.Value)
		}
		if err != nil {
			return err
		}
	}
	return commit()
}

// soakApply does ops to rows.
func soakApply(rows map[string]string, w int, ops []db.Op) {
	for _, op := range ops {
		key := string(op.Key)
		switch op.Kind {
		case db.OpSet:
			rows[key] = string(op.Value)
		case db.OpDelete:
			delete(rows, key)
		case db.OpDeleteRange:
			for ; key < string(op.End); key = soakNext(w, key) {
				delete(rows, key)
			}
		case db.OpMerge:
			merged, _ := soakMerger(nil, []byte(rows[key]), op.Value)
			rows[key] = string(merged)
		}
	}
}

func soakNext(w int, key string) string {
	i, _ := strconv.Atoi(key[len(key)-5:])
	return string(soakKey(w, i+1))
}

// soakUntilKilled is the child. Its arguments are the directory and the number of each
// writer's first write.
func soakUntilKilled(dir string, first []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
	}
	report(opening, 0)
	d, err := db.Open(dir, soakOptions())
	fail(err)
	fail(foundBank(d))
	report(opened, 0)
	var wait sync.WaitGroup
	for w, s := range first {
		n, _ := strconv.Atoi(s)
		wait.Go(func() {
			for ; ; n++ {
				fail(soakWrite(d, soakOps(w, n)))
				report(w, n)
			}
		})
	}
	for id := range bankTellers / 4 {
		b, err := newTeller(d, id, rand.Uint64())
		fail(err)
		wait.Go(func() {
			for {
				if err := b.work(); !errors.Is(err, db.ErrConflict) {
					fail(err)
				}
				report(soakReport+id, int(b.done))
			}
		})
	}
	for {
		for name, audit := range audits {
			sum, err := audit(d)
			fail(err)
			if sum != bankTotal {
				fail(fmt.Errorf("%s: total %d, want %d", name, sum, bankTotal))
			}
		}
	}
}

// A soak is a store whose users are killed.
type soak struct {
	dir        string
	life       time.Duration // of a child, at most
	openTime   time.Duration // of the last child that was let
	founded    bool          // some child has opened the store
	kills      int
	duringOpen int
	above      int64 // the most bytes that files took beyond twice what was live
	writers    [soakWriters]soaker
	transfers  [bankTellers]uint64
}

// A soaker is what the parent knows of a writer.
type soaker struct {
	rows         map[string]string // after done writes
	done         int               // last write that was found
	acknowledged int               // last write that must be there
}

// kill runs a child, kills it, and notes what it had acknowledged.
func (s *soak) kill(t *testing.T) {
	args := []string{"soak", s.dir}
	for _, w := range s.writers {
		args = append(args, strconv.Itoa(w.done+1))
	}
	s.kills++
	delay := rand.N(s.life)
	if s.kills%soakDelayOpen == 0 {
		delay = rand.N(s.openTime + time.Microsecond)
	}
	openTime := killChild(t, opening, delay, func(w, n int) {
		if w >= soakReport {
			s.transfers[w-soakReport] = max(s.transfers[w-soakReport], uint64(n))
		} else {
			s.writers[w].acknowledged = n
		}
	}, args...)
	if openTime == 0 {
		s.duringOpen++
		return
	}
	s.founded, s.openTime = true, openTime
}

// check compares what the kill left with what is known. Half of the times it opens the
// store only to read, so that the next child finds it as the kill left it.
func (s *soak) check(t *testing.T) {
	opts := soakOptions()
	opts.ReadOnly = s.founded && s.kills%4 < 2
	onDisk := filesIn(t, s.dir)
	d, err := db.Open(s.dir, opts)
	require.NoError(t, err, "kill %d", s.kills)
	defer func() { require.NoError(t, d.Close()) }()
	require.NoError(t, d.Verify(context.Background()), "kill %d", s.kills)
	live := int64(0)
	var found [soakWriters]map[string]string
	for w := range found {
		found[w] = map[string]string{}
	}
	it := d.Scan(nil, nil)
	for key, value := range it.All() {
		live += int64(len(key) + len(value) + soakRowExtra)
		if rest, ok := strings.CutPrefix(string(key), "soak/"); ok {
			found[rest[0]-'0'][string(key)] = string(value)
		}
	}
	require.NoError(t, it.Err())
	s.above = max(s.above, onDisk-2*live)
	require.LessOrEqual(t, onDisk, 2*live+soakLeast, "kill %d: %d bytes live", s.kills, live)
	for w := range found {
		s.match(t, w, found[w])
	}
	if !s.founded {
		return
	}
	for name, audit := range audits {
		if opts.ReadOnly && name == "writing, may fail" {
			continue
		}
		sum, err := audit(d)
		require.NoError(t, err, name)
		require.Equal(t, bankTotal, sum, "kill %d: %s", s.kills, name)
	}
	for id := range bankTellers / 4 {
		b, err := newTeller(d, id, 0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, b.done, s.transfers[id], "kill %d: teller %d", s.kills, id)
		s.transfers[id] = b.done
	}
}

// match finds the number of writes after which the rows of writer w are as found: those
// that were acknowledged, or one more.
func (s *soak) match(t *testing.T, w int, found map[string]string) {
	k := &s.writers[w]
	least := max(k.done, k.acknowledged)
	for k.done < least {
		k.done++
		soakApply(k.rows, w, soakOps(w, k.done))
	}
	if equal(k.rows, found) {
		return
	}
	before := difference(k.rows, found)
	k.done++
	soakApply(k.rows, w, soakOps(w, k.done))
	require.True(t, equal(k.rows, found), "kill %d, writer %d: at least %d writes must be there; with them differ: %s; with one more: %s",
		s.kills, w, least, before, difference(k.rows, found))
}

// filesIn returns the bytes of all files in dir.
func filesIn(t *testing.T, dir string) (sum int64) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		sum += info.Size()
	}
	return sum
}
