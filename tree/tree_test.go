package tree

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/pagecache"
)

// tiny is small enough that every structural path runs often.
func tiny() Options {
	return Options{
		Cache: pagecache.Options{
			InMemory: true, MergeDeltas: 4,
		},
		Durability:   None,
		MaxNodeBytes: 256,
		ChunkBytes:   100,
	}
}

// pinned calls fn under a guard, and gives it up even if fn ends the test: Close waits
// for guards.
func pinned(tr *Tree, fn func(g epoch.Guard)) {
	g := tr.cache.Pin()
	defer g.Unpin()
	fn(g)
}

func openTree(t testing.TB, o Options) *Tree {
	tr, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

func value(key string, size int) []byte {
	return bytes.Repeat([]byte(key+"."), size/(len(key)+1)+1)[:size]
}

func get(t testing.TB, tr *Tree, key string) (string, bool) {
	v, err := tr.GetTo(nil, []byte(key))
	if errors.Is(err, ErrNotFound) {
		return "", false
	}
	require.NoError(t, err)
	return string(v), true
}

// rows reads a whole iterator forwards.
func rows(t require.TestingT, it *Iterator) []string {
	var out []string
	for it.Next() {
		out = append(out, string(it.Key())+"="+string(it.Value()))
	}
	require.NoError(t, it.Err())
	return out
}

func modelRows(m map[string]string, lo, hi []byte) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= string(lo) && (hi == nil || k < string(hi)) {
			out = append(out, k+"="+m[k])
		}
	}
	return out
}

func TestBasics(t *testing.T) {
	tr := openTree(t, tiny())
	_, err := tr.GetTo(nil, []byte("a"))
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, tr.Set([]byte("a"), []byte("1")))
	require.NoError(t, tr.Set(nil, nil))
	empty, err := tr.GetTo(nil, nil)
	require.NoError(t, err)
	require.Equal(t, []byte{}, empty)
	first := tr.Scan(nil, nil)
	require.True(t, first.First())
	require.Equal(t, []byte{}, first.Key())
	require.Equal(t, []byte{}, first.Value())
	require.NoError(t, first.Close())
	require.Nil(t, first.Key())
	v, err := tr.GetTo([]byte("x"), []byte("a"))
	require.NoError(t, err)
	require.Equal(t, "x1", string(v))
	ok, err := tr.Has([]byte{})
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, tr.Delete([]byte("a")))
	require.NoError(t, tr.Delete([]byte("absent")))
	ok, err = tr.Has([]byte("a"))
	require.NoError(t, err)
	require.False(t, ok)
	require.ErrorIs(t, tr.Set(make([]byte, MaxKeyBytes+1), nil), ErrTooLarge)
	require.NoError(t, tr.Check())
	require.NoError(t, tr.Close())
	require.ErrorIs(t, tr.Close(), ErrClosed)
	require.ErrorIs(t, tr.Set([]byte("a"), nil), ErrClosed)
	_, err = tr.GetTo(nil, []byte("a"))
	require.ErrorIs(t, err, ErrClosed)
	it := tr.Scan(nil, nil)
	require.False(t, it.Next())
	require.ErrorIs(t, it.Err(), ErrClosed)
	require.ErrorIs(t, it.Close(), ErrClosed)
}

func TestCompareAndSwap(t *testing.T) {
	tr := openTree(t, tiny())
	key := []byte("k")
	big := value("big", 1000)
	for _, c := range []struct {
		old, new []byte
		swapped  bool
		current  []byte
	}{
		{[]byte("x"), []byte("y"), false, nil},
		{nil, nil, true, nil},
		{nil, []byte{}, true, nil},
		{nil, []byte("x"), false, []byte{}},
		{[]byte{}, []byte("1"), true, nil},
		{[]byte("1"), big, true, nil},
		{[]byte("1"), []byte("2"), false, big},
		{big, value("other", 500), true, nil},
		{big, nil, false, value("other", 500)},
		{value("other", 500), []byte("2"), true, nil},
		{[]byte("2"), nil, true, nil},
		{[]byte("2"), nil, false, nil},
	} {
		swapped, current, err := tr.CompareAndSwap(key, c.old, c.new)
		require.NoError(t, err)
		require.Equal(t, c.swapped, swapped, "%q to %q", c.old, c.new)
		require.Equal(t, c.current, current, "%q to %q", c.old, c.new)
	}
	require.NoError(t, tr.Check())
}

// Loads in order, against it and at random, with every node well filled.
func TestLoads(t *testing.T) {
	for name, key := range map[string]func(i int) string{
		"ascending":  func(i int) string { return fmt.Sprintf("%06d", i) },
		"descending": func(i int) string { return fmt.Sprintf("%06d", 100000-i) },
		"random":     func(i int) string { return fmt.Sprintf("%06d", i*7919%100003) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := openTree(t, tiny())
			want := map[string]string{}
			for i := range 3000 {
				want[key(i)] = fmt.Sprint("v", i)
				require.NoError(t, tr.Set([]byte(key(i)), []byte(want[key(i)])))
			}
			require.NoError(t, tr.Check())
			for k, v := range want {
				got, ok := get(t, tr, k)
				require.True(t, ok, k)
				require.Equal(t, v, got)
			}
			it := tr.Scan(nil, nil)
			require.Equal(t, modelRows(want, nil, nil), rows(t, it))
			require.NoError(t, it.Close())
			m := tr.Metrics()
			fill := leafFill(t, tr)
			t.Logf("pages %d, leaf splits %d, inner %d, growths %d, finished %d, leaves %d%% full", m.Cache.Pages, m.LeafSplits, m.InnerSplits, m.RootGrowths, m.FinishedSplits, fill)
			if name != "random" {
				require.Greater(t, fill, 80)
			}
		})
	}
}

// leafFill is how full the leaves are on average, in percent of a node.
func leafFill(t *testing.T, tr *Tree) int {
	g, p, err := tr.locate(0, &seek{}, 0)
	require.NoError(t, err)
	pid := p.view.PID()
	g.Unpin()
	bytes, leaves := 0, 0
	for pid != 0 {
		n, err := tr.merged(pid)
		require.NoError(t, err)
		bytes, leaves, pid = bytes+len(n), leaves+1, n.right()
	}
	return bytes * 100 / leaves / tr.options.MaxNodeBytes
}

// Keys and values of every size that is allowed, up to the limits.
func TestExtremes(t *testing.T) {
	tr := openTree(t, tiny())
	want := map[string]string{}
	for i := range 40 {
		k := strings.Repeat("k", MaxKeyBytes-3) + fmt.Sprintf("%03d", i)
		want[k] = string(value("v", i*37))
		require.NoError(t, tr.Set([]byte(k), []byte(want[k])))
	}
	require.NoError(t, tr.Check())
	for k, v := range want {
		got, ok := get(t, tr, k)
		require.True(t, ok)
		require.Equal(t, v, got)
	}
	require.NoError(t, tr.Set([]byte("huge"), value("huge", 10<<20)))
	got, _ := get(t, tr, "huge")
	require.Equal(t, string(value("huge", 10<<20)), got)
	require.NoError(t, tr.Delete([]byte("huge")))
	require.NoError(t, tr.Check())
}

func TestGetDoesNotAllocate(t *testing.T) {
	if invariant.Debug {
		t.Skip("sync.Pool drops at random under -race")
	}
	tr := openTree(t, Options{Cache: pagecache.Options{InMemory: true}, Durability: None})
	for i := range 2000 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%06d", i), []byte("value")))
	}
	key, dst := []byte("000700"), make([]byte, 0, 64)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		out, err := tr.GetTo(dst, key)
		if err != nil || len(out) != 5 {
			t.Fatal(err)
		}
	}))
	require.Less(t, testing.AllocsPerRun(1000, func() {
		if err := tr.Set(key, dst[:5]); err != nil {
			t.Fatal(err)
		}
	}), 0.5)
}

// A model is the tree beside a map.
type model struct {
	tr    *Tree
	rows  map[string]string
	scans []openScan
}

type openScan struct {
	it     *Iterator
	want   []string // at the moment of the Scan
	at     int      // the row it stands on; -1 and len(want) off the ends
	fresh  bool
	lo, hi []byte
}

func (m *model) step(t *rapid.T) {
	key := genKey()
	switch rapid.SampledFrom([]string{"set", "set", "set", "delete", "cas", "large", "batch", "get", "scan", "move", "move", "move", "close", "many"}).Draw(t, "op") {
	case "set":
		m.set(t, key.Draw(t, "key"), rapid.StringN(0, 60, -1).Draw(t, "value"))
	case "large":
		m.set(t, key.Draw(t, "key"), string(value("large", rapid.IntRange(60, 700).Draw(t, "size"))))
	case "delete":
		k := key.Draw(t, "key")
		require.NoError(t, m.tr.Delete([]byte(k)))
		delete(m.rows, k)
	case "cas":
		m.swap(t, key.Draw(t, "key"))
	case "batch":
		m.batch(t, rapid.SliceOfNDistinct(key, 0, 60, rapid.ID[string]).Draw(t, "keys"))
	case "many":
		start, n := rapid.IntRange(0, 500).Draw(t, "start"), rapid.IntRange(1, 100).Draw(t, "n")
		for i := range n {
			m.set(t, fmt.Sprintf("%05d", start+i), "value")
		}
	case "get":
		k := key.Draw(t, "key")
		got, err := m.tr.GetTo(nil, []byte(k))
		want, ok := m.rows[k]
		require.Equal(t, !ok, errors.Is(err, ErrNotFound), "%v", err)
		require.Equal(t, want, string(got))
	case "scan":
		m.scan(t)
	case "move":
		if len(m.scans) > 0 {
			m.scans[rapid.IntRange(0, len(m.scans)-1).Draw(t, "scan")].move(t)
		}
	case "close":
		if len(m.scans) > 0 {
			require.NoError(t, m.scans[0].it.Close())
			m.scans = m.scans[1:]
		}
	}
}

func (m *model) set(t *rapid.T, k, v string) {
	require.NoError(t, m.tr.Set([]byte(k), []byte(v)))
	m.rows[k] = v
}

func (m *model) swap(t *rapid.T, k string) {
	old, ok := m.rows[k]
	guess := rapid.Bool().Draw(t, "right")
	if !guess {
		old = "wrong" + old
	}
	var oldBytes []byte
	if ok || !guess {
		oldBytes = []byte(old)
	}
	swapped, current, err := m.tr.CompareAndSwap([]byte(k), oldBytes, []byte("swapped"))
	require.NoError(t, err)
	require.Equal(t, guess, swapped)
	if swapped {
		m.rows[k] = "swapped"
	} else if ok {
		require.Equal(t, m.rows[k], string(current))
	} else {
		require.Nil(t, current)
	}
}

func (m *model) batch(t *rapid.T, keys []string) {
	slices.Sort(keys)
	var ops []Op
	for i, k := range keys {
		if i%5 == 4 {
			ops = append(ops, Op{Key: []byte(k), Kind: OpDelete})
			delete(m.rows, k)
			continue
		}
		v := string(value("b"+k, i*i%130))
		ops = append(ops, Op{Key: []byte(k), Value: []byte(v)})
		m.rows[k] = v
	}
	require.NoError(t, m.tr.Apply(ops))
}

func (m *model) scan(t *rapid.T) {
	var lo, hi []byte
	if rapid.Bool().Draw(t, "bounded") {
		lo = []byte(genKey().Draw(t, "lo"))
	}
	if rapid.Bool().Draw(t, "bounded") {
		hi = []byte(genKey().Draw(t, "hi"))
	}
	m.scans = append(m.scans, openScan{it: m.tr.Scan(lo, hi), want: modelRows(m.rows, lo, hi), fresh: true, lo: lo, hi: hi})
}

// move does one move and compares.
func (s *openScan) move(t *rapid.T) {
	n := len(s.want)
	switch op := rapid.SampledFrom([]string{"next", "next", "prev", "prev", "first", "last", "ge", "lt"}).Draw(t, "move"); op {
	case "next":
		if s.fresh {
			s.at = -1
		}
		s.at = min(s.at+1, n)
		require.Equal(t, s.at < n, s.it.Next())
	case "prev":
		if s.fresh {
			s.at = n
		}
		s.at = max(s.at-1, -1)
		require.Equal(t, s.at >= 0, s.it.Prev())
	case "first":
		s.at = 0
		require.Equal(t, n > 0, s.it.First())
	case "last":
		s.at = n - 1
		require.Equal(t, n > 0, s.it.Last())
	default:
		k := genKey().Draw(t, "seek")
		i := 0
		for i < n && s.want[i][:strings.IndexByte(s.want[i], '=')] < k {
			i++
		}
		if op == "ge" {
			s.at = i
			require.Equal(t, i < n, s.it.SeekGE([]byte(k)))
		} else {
			s.at = i - 1
			require.Equal(t, i > 0, s.it.SeekLT([]byte(k)))
		}
	}
	s.fresh = false
	require.NoError(t, s.it.Err())
	if s.at >= 0 && s.at < n {
		require.True(t, s.it.Valid())
		require.Equal(t, s.want[s.at], string(s.it.Key())+"="+string(s.it.Value()))
	} else {
		require.False(t, s.it.Valid())
		require.Nil(t, s.it.Key())
		require.Nil(t, s.it.Value())
	}
}

// Random operations on the tree and on a map, with iterators open over both.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr, err := Open(tiny())
		require.NoError(t, err)
		defer tr.Close()
		m := &model{tr: tr, rows: map[string]string{}}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			m.step(t)
		}
		m.check(t)
	})
}

func (m *model) check(t *rapid.T) {
	require.NoError(t, m.tr.Check())
	for _, s := range m.scans {
		require.True(t, s.it.First() == (len(s.want) > 0))
		it := s.it
		var got []string
		for ok := it.Valid(); ok; ok = it.Next() {
			got = append(got, string(it.Key())+"="+string(it.Value()))
		}
		require.Equal(t, s.want, got)
		require.NoError(t, it.Close())
	}
	it := m.tr.Scan(nil, nil)
	require.Equal(t, modelRows(m.rows, nil, nil), rows(t, it))
	require.NoError(t, it.Close())
}
