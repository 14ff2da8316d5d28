package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// A txn is a transaction as package db makes one, with what it reads noted.
type txn struct {
	t      testing.TB
	tr     *Tree
	m      *Moment
	keys   map[string]bool
	ranges []Range
	writes map[string]*string // nil: deleted
	erase  []Range
}

func begin(t testing.TB, tr *Tree) *txn {
	return &txn{t: t, tr: tr, m: tr.OpenMoment(), keys: map[string]bool{}, writes: map[string]*string{}}
}

func (x *txn) get(key string) (string, bool) {
	x.keys[key] = true
	v, err := x.tr.GetAt(x.m, nil, []byte(key))
	if err == ErrNotFound {
		return "", false
	}
	if err != nil {
		x.t.Errorf("get: %v", err)
	}
	return string(v), true
}

// scan reads a range, backwards if asked to; it is to be the only one or above the
// last.
func (x *txn) scan(lo, hi string, back bool) []string {
	x.ranges = append(x.ranges, Range{[]byte(lo), []byte(hi)})
	it := x.tr.ScanAt(x.m, []byte(lo), []byte(hi))
	var out []string
	move := it.Next
	if back {
		move = it.Prev
	}
	for move() {
		out = append(out, string(it.Key())+"="+string(it.Value()))
	}
	if err := it.Close(); err != nil {
		x.t.Errorf("scan: %v", err)
	}
	if back {
		slices.Reverse(out)
	}
	return out
}

func (x *txn) set(key, value string) { x.writes[key] = &value }
func (x *txn) delete(key string)     { x.writes[key] = nil }

func (x *txn) commit() error {
	w, r := &Writes{Erase: x.erase}, &Reads{Moment: x.m, Ranges: x.ranges}
	for _, k := range slices.Sorted(maps.Keys(x.writes)) {
		if v := x.writes[k]; v == nil {
			w.Ops = append(w.Ops, Op{Key: []byte(k), Kind: OpDelete})
		} else {
			w.Ops = append(w.Ops, Op{Key: []byte(k), Value: []byte(*v)})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(x.keys)) {
		r.Keys = append(r.Keys, []byte(k))
	}
	err := x.tr.Commit(w, r)
	x.m.Close()
	return err
}

func set(t testing.TB, tr *Tree, key, value string) {
	require.NoError(t, tr.Set([]byte(key), []byte(value)))
}

// filled returns a tree of many tiny leaves.
func filled(t testing.TB, n int) *Tree {
	tr := openTree(t, tiny())
	for i := range n {
		set(t, tr, fmt.Sprintf("%04d", i), "before")
	}
	return tr
}

func TestWriteSkew(t *testing.T) {
	tr := filled(t, 100)
	a, b := begin(t, tr), begin(t, tr)
	for _, x := range []*txn{a, b} {
		x.get("0010")
		x.get("0090")
	}
	a.set("0010", "a")
	b.set("0090", "b")
	require.NoError(t, a.commit())
	require.ErrorIs(t, b.commit(), ErrConflict)
	v, _ := get(t, tr, "0090")
	require.Equal(t, "before", v)
	require.Equal(t, uint64(1), tr.Metrics().Conflicts)
}

// Two transactions find nothing under a prefix, and both insert.
func TestPhantom(t *testing.T) {
	for _, back := range []bool{false, true} {
		tr := filled(t, 100)
		a, b := begin(t, tr), begin(t, tr)
		require.Empty(t, a.scan("0050/", "0050~", back))
		require.Empty(t, b.scan("0050/", "0050~", back))
		a.set("0050/a", "a")
		b.set("0050/b", "b")
		require.NoError(t, b.commit())
		require.ErrorIs(t, a.commit(), ErrConflict)
		require.Len(t, rows(t, tr.Scan([]byte("0050/"), []byte("0050~"))), 1)
	}
}

func TestLostUpdate(t *testing.T) {
	tr := filled(t, 100)
	a, b := begin(t, tr), begin(t, tr)
	for _, x := range []*txn{a, b} {
		v, _ := x.get("0033")
		x.set("0033", v+"+")
	}
	require.NoError(t, a.commit())
	require.ErrorIs(t, b.commit(), ErrConflict)
	c := begin(t, tr)
	c.get("0033")
	set(t, tr, "0033", "by a single write")
	c.set("0034", "x")
	require.ErrorIs(t, c.commit(), ErrConflict)
}

func TestReadOfAbsentKey(t *testing.T) {
	tr := filled(t, 100)
	a, b := begin(t, tr), begin(t, tr)
	for i, x := range []*txn{a, b} {
		_, ok := x.get("0033.5")
		require.False(t, ok)
		x.set("0033.5", fmt.Sprint(i))
	}
	require.NoError(t, a.commit())
	require.ErrorIs(t, b.commit(), ErrConflict)
}

// What a transaction read is found to be written to whatever has become of the
// leaf since, and what it did not read is not.
func TestValidation(t *testing.T) {
	churn := func(tr *Tree, keep string) {
		for n := range 300 {
			if k := fmt.Sprintf("%04d", n%100); k != keep {
				set(t, tr, k, string(value(k, n%50)))
			}
		}
	}
	for _, c := range []struct {
		name     string
		between  func(tr *Tree)
		conflict bool
	}{
		{"nothing", func(*Tree) {}, false},
		{"others", func(tr *Tree) { churn(tr, "0050") }, false},
		{"set", func(tr *Tree) { set(t, tr, "0050", "new") }, true},
		{"set and churn", func(tr *Tree) { set(t, tr, "0050", "new"); churn(tr, "0050") }, true},
		{"delete and churn", func(tr *Tree) { require.NoError(t, tr.Delete([]byte("0050"))); churn(tr, "0050") }, true},
		{"erase", func(tr *Tree) { require.NoError(t, tr.DeleteRange([]byte("0049"), []byte("0051"))) }, true},
		{"erase and churn", func(tr *Tree) { require.NoError(t, tr.DeleteRange(nil, nil)); churn(tr, "0050") }, true},
		{"erase beside", func(tr *Tree) { require.NoError(t, tr.DeleteRange([]byte("0051"), nil)) }, false},
	} {
		for _, ranged := range []bool{false, true} {
			for _, onDisk := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s ranged %v on disk %v", c.name, ranged, onDisk), func(t *testing.T) {
					o := tiny()
					if onDisk {
						o = tinyOnDisk(vfs.NewMem())
						o.Cache.CacheSize = 64 << 10
					}
					tr := openTree(t, o)
					for i := range 100 {
						set(t, tr, fmt.Sprintf("%04d", i), "before")
					}
					x := begin(t, tr)
					if ranged {
						require.Len(t, x.scan("0050", "0050~", false), 1)
					} else {
						x.get("0050")
					}
					c.between(tr)
					x.set("other", "x")
					if c.conflict {
						require.ErrorIs(t, x.commit(), ErrConflict)
					} else {
						require.NoError(t, x.commit())
					}
					require.NoError(t, tr.Check())
				})
			}
		}
	}
}

func TestCommitArguments(t *testing.T) {
	tr := openTree(t, tiny())
	b := func(s string) []byte { return []byte(s) }
	for _, w := range []*Writes{
		{Erase: []Range{{b("b"), b("a")}}},
		{Erase: []Range{{b("a"), b("a")}}},
		{Erase: []Range{{b("a"), nil}, {b("c"), b("d")}}},
		{Erase: []Range{{b("a"), b("c")}, {b("b"), b("d")}}},
		{Ops: []Op{{Key: b("b")}, {Key: b("a")}}},
	} {
		require.ErrorIs(t, tr.Commit(w, nil), ErrUnsorted)
	}
	require.ErrorIs(t, tr.Commit(&Writes{Ops: []Op{{Kind: OpMerge, Operands: [][]byte{b("x")}}}}, nil), ErrNoMerger)
	m := tr.OpenMoment()
	defer m.Close()
	require.ErrorIs(t, tr.Commit(&Writes{Ops: []Op{{}}}, &Reads{Moment: m, Keys: [][]byte{b("b"), b("a")}}), ErrUnsorted)
	require.NoError(t, tr.Commit(&Writes{}, nil))
	require.NoError(t, tr.DeleteRange(b("b"), b("a")))
	require.NoError(t, tr.DeleteRange(nil, []byte{}))
	require.NoError(t, tr.DeleteRange(nil, nil))
	require.WithinDuration(t, time.Now(), m.Opened(), time.Minute)
}

// In a storm of conflicting transactions, each of which reads what others write,
// every one gets through in the end, and nothing is lost: money, counts, phantoms.
func TestCommitStorm(t *testing.T) {
	const goroutines, accounts = 4, 40
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	yieldHook = func(yieldPoint) {
		if rand.IntN(20) == 0 {
			runtime.Gosched()
		}
	}
	t.Cleanup(func() { yieldHook = nil })
	o := tinyOnDisk(vfs.NewMem())
	tr, err := Open(o)
	require.NoError(t, err)
	defer func() { require.NoError(t, tr.Close()) }()
	account := func(i int) string { return fmt.Sprintf("account/%03d/%s", i, value("pad", i%60)) }
	number := func(n int) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	for i := range accounts {
		set(t, tr, account(i), number(100))
	}
	var inserted, conflicts atomic.Int64
	var wg sync.WaitGroup
	for g := range goroutines {
		rng := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			for range 120 {
				for try := 0; ; try++ {
					x := begin(t, tr)
					i, j := rng.IntN(accounts), rng.IntN(accounts)
					if i != j {
						a, _ := x.get(account(i))
						b, _ := x.get(account(j))
						x.set(account(i), number(int(binary.BigEndian.Uint64([]byte(a))-1)))
						x.set(account(j), number(int(binary.BigEndian.Uint64([]byte(b))+1)))
					}
					insert := rng.IntN(4) == 0
					if insert {
						found := x.scan("row/", "row~", rng.IntN(2) == 0)
						x.set(fmt.Sprintf("row/%05d", len(found)), "x")
					}
					if rng.IntN(8) == 0 {
						x.erase = []Range{{[]byte("spare/"), []byte("spare~")}}
					} else {
						x.set(fmt.Sprintf("spare/%03d", rng.IntN(100)), "x")
					}
					err := x.commit()
					if err == nil {
						if insert {
							inserted.Add(1)
						}
						break
					}
					conflicts.Add(1)
					if !errors.Is(err, ErrConflict) || try > 10000 {
						t.Errorf("try %d: %v", try, err)
						return
					}
				}
				if rng.IntN(10) == 0 {
					total := 0
					it := tr.Scan([]byte("account/"), []byte("account~"))
					for it.Next() {
						total += int(binary.BigEndian.Uint64(it.Value()))
					}
					if err := it.Close(); err != nil || total != accounts*100 {
						t.Errorf("total %d, %v", total, err)
					}
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, rows(t, tr.Scan([]byte("row/"), []byte("row~"))), int(inserted.Load()))
	require.NoError(t, tr.Check())
	m := tr.Metrics()
	t.Logf("%d conflicts, %d restarts, %d inserted, %d evictions", conflicts.Load(), m.BatchRestarts, inserted.Load(), m.Cache.Evictions)
	require.NotZero(t, m.Conflicts)
}

// While a committer is held up with all its writer bits, readers of everything and
// writers of other leaves complete, and the snapshots opened see nothing of it.
func TestSuspendedCommit(t *testing.T) {
	var armed atomic.Bool
	reached, resume := make(chan struct{}), make(chan struct{})
	yieldHook = func(p yieldPoint) {
		if p == yieldCommitOwned && armed.CompareAndSwap(true, false) {
			close(reached)
			<-resume
		}
	}
	t.Cleanup(func() { yieldHook = nil })
	tr := filled(t, 200)
	x := begin(t, tr)
	require.Len(t, x.scan("0050", "0060", false), 10)
	x.set("0010", "after")
	x.set("0100", "after")
	x.erase = []Range{{[]byte("0102"), []byte("0110")}}
	armed.Store(true)
	result := make(chan error)
	go func() { result <- x.commit() }()
	<-reached
	for i := range 200 {
		v, ok := get(t, tr, fmt.Sprintf("%04d", i))
		require.True(t, ok)
		require.Equal(t, "before", v)
	}
	it := tr.Scan(nil, nil)
	require.Len(t, rows(t, it), 200)
	set(t, tr, "0150", "other leaf")
	require.NoError(t, tr.Apply([]Op{{Key: []byte("0151"), Value: []byte("x")}, {Key: []byte("0190"), Value: []byte("x")}}))
	waiting := make(chan error)
	go func() { waiting <- tr.Set([]byte("0055"), []byte("waits")) }()
	select {
	case <-waiting:
		t.Fatal("a writer of a leaf that is owned got through")
	case <-time.After(10 * time.Millisecond):
	}
	close(resume)
	require.NoError(t, <-result)
	require.NoError(t, <-waiting)
	v, _ := get(t, tr, "0100")
	require.Equal(t, "after", v)
	require.NoError(t, it.Close())
	require.Len(t, rows(t, tr.Scan(nil, nil)), 192)
}

// A leaf of which a commit has validated what was read stays its own until the end,
// though a later key, which a split has moved since, leads to it again. It was given
// back: another commit got in between, and two of them could wait for each other.
func TestCommitKeepsWhatItValidated(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		var armed atomic.Bool
		var tr *Tree
		yieldHook = func(p yieldPoint) {
			switch {
			case p == yieldCommitScouted && armed.Load():
				armed.Store(false) // its own writes come here as well
				for i := range 60 {
					set(t, tr, fmt.Sprintf("m%04d", i), "splits the leaf between a and z")
				}
				if evicted {
					for i := range 4000 {
						set(t, tr, fmt.Sprintf("zz%04d", i), "fills the cache, so that others are evicted")
					}
				}
				armed.Store(true)
			case p == yieldCommitOwned && armed.Load():
				armed.Store(false)
				g := tr.cache.Pin()
				defer g.Unpin()
				for _, key := range []string{"a", "z"} {
					p, err := tr.descend(g, 0, &seek{key: []byte(key)}, 0)
					require.NoError(t, err)
					require.True(t, p.view.Owned(), "the leaf of %q", key)
				}
			}
		}
		tr = openTree(t, tiny())
		set(t, tr, "a", "read")
		set(t, tr, "z", "read and written")
		x := begin(t, tr)
		x.get("a")
		x.get("z")
		x.set("z", "written")
		armed.Store(true)
		require.NoError(t, x.commit())
		require.False(t, armed.Load())
		yieldHook = nil
	}
}

// A range deletion that ends within the last leaf leaves what is behind it, also if the
// leaf is evicted between the look at it and the write. Its missing high fence became an
// empty key there, which lies below every bound, so that all up to the fence was erased.
func TestEraseInLastLeafEvicted(t *testing.T) {
	armed := false
	var tr *Tree
	resident := func(key string) (is bool) {
		pinned(tr, func(g epoch.Guard) {
			p, err := tr.descend(g, 0, &seek{key: []byte(key)}, 0)
			require.NoError(t, err)
			is = p.absent == 0
		})
		return is
	}
	yieldHook = func(p yieldPoint) {
		if p != yieldCommitScouted || !armed {
			return
		}
		armed = false
		for i := 0; resident("y9"); i++ {
			require.Less(t, i, 100000)
			set(t, tr, fmt.Sprintf("b%05d", i), "fills the cache, so that others are evicted")
		}
	}
	t.Cleanup(func() { yieldHook = nil }) // after the tree is closed
	tr = openTree(t, tinyOnDisk(vfs.NewMem()))
	for i := range 100 {
		set(t, tr, fmt.Sprintf("x%03d", i), "in leaves before")
	}
	for i := range 10 {
		set(t, tr, fmt.Sprintf("y%d", i), "1")
	}
	_, found := get(t, tr, "y9")
	require.True(t, found)
	require.True(t, resident("y9"))
	armed = true
	require.NoError(t, tr.DeleteRange([]byte("x"), []byte("y7")))
	require.False(t, armed)
	require.Equal(t, []string{"y7=1", "y8=1", "y9=1"}, rows(t, tr.Scan([]byte("x"), nil)))
}

// A commit that empties a leaf and fills it again has it split. It was taken for one that
// makes the leaf small, and left a leaf of any size, which fits no record of the log.
func TestEraseAndFill(t *testing.T) {
	tr := openTree(t, tiny())
	set(t, tr, "0000", "before")
	w := &Writes{Erase: []Range{{}}}
	for i := range 100 {
		w.Ops = append(w.Ops, Op{Key: fmt.Appendf(nil, "%04d", i), Value: []byte("after")})
	}
	require.NoError(t, tr.Commit(w, nil))
	require.Greater(t, pages(tr), uint64(10))
	require.NoError(t, tr.Check())
	require.Len(t, rows(t, tr.Scan(nil, nil)), len(w.Ops))
}

// A leaf that a commit owns, that is lent to readers and that the walk reaches from its
// left, as it does from a root that has been split, has the fence that it states. The
// parent was asked, which is not known then: the process ended.
func TestRouteToLentLeaf(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	old := tr.root.Load()
	for i := range 200 {
		set(t, tr, fmt.Sprintf("%05d", i), "value")
	}
	pid := leafOfKey(t, tr, "00100")
	resident := func() (is bool) {
		pinned(tr, func(g epoch.Guard) {
			v, err := tr.cache.Peek(g, pid)
			require.NoError(t, err)
			is = v.Resident()
		})
		return is
	}
	for i := 0; resident(); i++ {
		require.Less(t, i, 100000)
		set(t, tr, fmt.Sprintf("9%05d", i), "fills the cache, so that others are evicted")
	}
	u := tr.cache.Begin()
	defer u.Discard()
	_, err := u.Acquire(pid)
	require.NoError(t, err)
	tr.root.Store(old)
	_, found := get(t, tr, "00100")
	require.True(t, found)
	require.True(t, resident())
	c := &commit{t: tr}
	hi, last, instead, absent := c.routeOwned(pid, []byte("00100"))
	require.Zero(t, instead)
	require.Zero(t, absent)
	require.False(t, last)
	require.Less(t, "00100", string(hi))
}

// sameRows fails with the first difference.
func sameRows(t testing.TB, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("%d rows, want %d; from row %d: %.200q, want %.200q", len(got), len(want), i, got[min(i, len(got)):min(i+2, len(got))], want[min(i, len(want)):min(i+2, len(want))])
		}
	}
}

// Commits of ops and range deletions against a sorted map, with evictions, open
// moments, restarts and crashes.
func TestEraseModel(t *testing.T) {
	rounds, steps := 4, 120
	if invariant.Debug {
		rounds, steps = 2, 60 // pages are checked and poisoned: it takes forty times as long
	}
	for round := range rounds {
		seed := uint64(time.Now().UnixNano())
		t.Logf("round %d: seed %d", round, seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		fs := vfs.NewMem()
		o := tinyOnDisk(fs)
		if round%2 == 0 {
			o.Cache.CacheSize = 64 << 10
			o.Durability = Sync
		}
		tr, err := Open(o)
		require.NoError(t, err)
		model := map[string]string{}
		key := func() string { return fmt.Sprintf("%04d%s", rng.IntN(3000), value("k", rng.IntN(12))) }
		for n := range steps {
			w := &Writes{}
			if rng.IntN(3) == 0 {
				lo, hi := []byte(key()), []byte(key())
				if rng.IntN(8) == 0 {
					hi = nil
				}
				if r := (Range{lo, hi}); !r.empty() {
					w.Erase = []Range{r}
					maps.DeleteFunc(model, func(k, _ string) bool { return k >= string(lo) && (hi == nil || k < string(hi)) })
				}
			}
			keys := map[string]bool{}
			for range rng.IntN(120) {
				keys[key()] = true
			}
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				if rng.IntN(6) == 0 {
					w.Ops = append(w.Ops, Op{Key: []byte(k), Kind: OpDelete})
					delete(model, k)
					continue
				}
				v := value(fmt.Sprint(n, k), rng.IntN(60)+1)
				if rng.IntN(30) == 0 {
					v = value(fmt.Sprint(n, k), 300)
				}
				w.Ops = append(w.Ops, Op{Key: []byte(k), Value: v})
				model[k] = string(v)
			}
			var old *Iterator
			var want []string
			if rng.IntN(3) == 0 {
				old, want = tr.Scan(nil, nil), rows(t, tr.Scan(nil, nil))
			}
			require.NoError(t, tr.Commit(w, nil))
			if old != nil {
				sameRows(t, want, rows(t, old))
				require.NoError(t, old.Close())
			}
			if n%10 == 9 {
				sameRows(t, modelRows(model, nil, nil), rows(t, tr.Scan(nil, nil)))
				require.NoError(t, tr.Check())
			}
			switch {
			case n%40 == 39:
				require.NoError(t, tr.Close())
			case n%25 == 24 && o.Durability == Sync:
				fs = fs.CrashClone(int64(seed) + int64(n))
				_ = tr.Close()
			default:
				continue
			}
			o.Cache.FS = fs
			tr, err = Open(o)
			require.NoError(t, err)
			sameRows(t, modelRows(model, nil, nil), rows(t, tr.Scan(nil, nil)))
			require.NoError(t, tr.Check())
		}
		t.Logf("%+v", tr.Metrics().ErasedLeaves)
		require.NoError(t, tr.Close())
	}
}

// Closing the moment that keeps them has the old versions dropped, without anybody
// touching the leaves again.
func TestClosedMomentGivesBack(t *testing.T) {
	for _, onDisk := range []bool{false, true} {
		o := tiny()
		if onDisk {
			o = tinyOnDisk(vfs.NewMem())
		}
		tr := openTree(t, o)
		for i := range 300 {
			set(t, tr, fmt.Sprintf("%04d", i), "before")
		}
		m := tr.OpenMoment()
		for n := range 1500 {
			k := fmt.Sprintf("%04d", n%300)
			set(t, tr, k, fmt.Sprint(n))
		}
		require.NoError(t, tr.DeleteRange([]byte("0100"), []byte("0200")))
		x := tr.Metrics()
		require.NotZero(t, x.KeptBytes)
		require.NotZero(t, x.Cache.OldestMoment)
		it := tr.ScanAt(m, nil, nil)
		m.Close()
		for i := range 300 {
			require.True(t, it.Next())
			require.Equal(t, fmt.Sprintf("%04d=before", i), string(it.Key())+"="+string(it.Value()))
		}
		require.NoError(t, it.Close())
		require.Eventually(t, func() bool { return tr.Metrics().KeptBytes == 0 }, 5*time.Second, 5*time.Millisecond)
		require.Len(t, rows(t, tr.Scan(nil, nil)), 200)
		require.NoError(t, tr.Check())
	}
}
