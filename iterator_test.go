package db_test

import (
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// rows returns all rows of it as "a=A b=B" and closes it. An error ends them.
func rows(it *db.Iterator) string {
	return join(it.All(), it)
}

func join(seq iter.Seq2[[]byte, []byte], it *db.Iterator) string {
	var s []string
	for key, value := range seq {
		s = append(s, fmt.Sprintf("%s=%s", key, value))
	}
	if err := it.Err(); err != nil {
		s = append(s, err.Error())
	}
	return strings.Join(s, " ")
}

func TestScanBounds(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "", "a", "b", "c", "d")
	b := func(s string) []byte { return []byte(s) }
	empty := []byte{}
	long := []byte(strings.Repeat("b", db.MaxKeyBytes+10))
	tests := []struct {
		name   string
		lo, hi []byte
		want   string
	}{
		{"all", nil, nil, "= a=A b=B c=C d=D"},
		{"empty lo is the first key", empty, nil, "= a=A b=B c=C d=D"},
		{"empty hi is an empty range", nil, empty, ""},
		{"lo only", b("b"), nil, "b=B c=C d=D"},
		{"hi only", nil, b("b"), "= a=A"},
		{"both", b("b"), b("d"), "b=B c=C"},
		{"between keys", b("aa"), b("cc"), "b=B c=C"},
		{"lo equals hi", b("b"), b("b"), ""},
		{"lo above hi", b("c"), b("b"), ""},
		{"behind all", b("x"), nil, ""},
		{"lo longer than a key can be", long, nil, "c=C d=D"},
		{"hi longer than a key can be", nil, long, "= a=A b=B"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, rows(d.Scan(test.lo, test.hi)))

			it := d.Scan(test.lo, test.hi)
			want := strings.Split(test.want, " ")
			for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
				want[i], want[j] = want[j], want[i]
			}
			require.Equal(t, strings.Join(want, " "), join(it.Backward(), it))
		})
	}
}

func TestScanPrefix(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "", "a", "ab", "abc", "b", "\xff", "\xff\xff", "\xff\xffz")
	tests := []struct{ prefix, want string }{
		{"a", "a ab abc"},
		{"ab", "ab abc"},
		{"abcd", ""},
		{"b", "b"},
		{"\xff", "\xff \xff\xff \xff\xffz"},
		{"\xff\xff", "\xff\xff \xff\xffz"},
		{"a\xff", ""},
		{"", " a ab abc b \xff \xff\xff \xff\xffz"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%q", test.prefix), func(t *testing.T) {
			var keys []string
			for key := range d.ScanPrefix([]byte(test.prefix)).All() {
				keys = append(keys, string(key))
			}
			require.Equal(t, test.want, strings.Join(keys, " "))
		})
	}
}

// A walk is a script of moves; after each comes the key it must stand on, or
// "-" if it must stand on none.
func TestIteratorMoves(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a", "b", "c", "d", "e")
	tests := []struct{ name, lo, hi, walk string }{
		{"new, then Next", "", "", "next a next b next c next d next e next - next - prev e"},
		{"new, then Prev", "", "", "prev e prev d prev c prev b prev a prev - prev - next a"},
		{"off the end and back", "", "", "last e next - next - prev e prev d"},
		{"off the start and back", "", "", "first a prev - prev - next a next b"},
		{"turning round", "", "", "first a next b prev a next b next c prev b"},
		{"seek", "", "", "ge:c c next d ge:bb c prev b lt:c b next c lt:cc c"},
		{"failed SeekGE stands at the end", "", "", "ge:x - next - prev e"},
		{"failed SeekLT stands at the start", "", "", "lt:a - prev - next a"},
		{"SeekLT of the empty key", "", "", "lt: - next a"},
		{"SeekGE of the empty key", "", "", "ge: a"},
		{"bounds", "b", "d", "next b next c next - prev c prev b prev - next b"},
		{"seek stays within bounds", "b", "d", "ge:a b lt:z c ge:d - prev c lt:b - next b lt:a - ge:z -"},
		{"first and last within bounds", "b", "d", "last c first b last c"},
		{"empty range", "c", "c", "next - prev - first - last - ge:c - lt:d - next -"},
		{"again after the end", "d", "", "next d next e next - first d last e next - ge:e e"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var hi []byte
			if test.hi != "" {
				hi = []byte(test.hi)
			}
			it := d.Scan([]byte(test.lo), hi)
			require.False(t, it.Valid())
			require.Nil(t, it.Key())
			require.Nil(t, it.Value())
			fields := strings.Split(test.walk, " ")
			for i := 0; i < len(fields); i += 2 {
				ok := move(it, fields[i])
				at := fmt.Sprintf("after %v", fields[:i+1])
				require.Equal(t, ok, it.Valid(), at)
				if fields[i+1] == "-" {
					require.False(t, ok, at)
					require.Nil(t, it.Key(), at)
					require.Nil(t, it.Value(), at)
					continue
				}
				require.True(t, ok, at)
				require.Equal(t, fields[i+1], string(it.Key()), at)
				require.Equal(t, strings.ToUpper(fields[i+1]), string(it.Value()), at)
			}
			require.NoError(t, it.Err())
			require.NoError(t, it.Close())
			require.NoError(t, it.Close(), "closing twice is harmless")
			require.NoError(t, it.Err(), "Err can be asked after Close")
		})
	}
}

func move(it *db.Iterator, step string) bool {
	verb, key, _ := strings.Cut(step, ":")
	switch verb {
	case "next":
		return it.Next()
	case "prev":
		return it.Prev()
	case "first":
		return it.First()
	case "last":
		return it.Last()
	case "ge":
		return it.SeekGE([]byte(key))
	case "lt":
		return it.SeekLT([]byte(key))
	}
	panic(step)
}

func TestIteratorSeesOneMoment(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a", "b", "c")
	it := d.Scan(nil, nil)
	require.NoError(t, d.Set([]byte("b"), []byte("later")))
	require.NoError(t, d.Delete([]byte("a")))
	fill(t, d, "bb", "d")
	require.Equal(t, "a=A b=B c=C", rows(it))
	require.Equal(t, "b=later bb=BB c=C d=D", rows(d.Scan(nil, nil)))
}

// A large number of later writes, which split and consolidate every page, does
// not change what an iterator sees.
func TestIteratorSeesOneMomentAcrossSplits(t *testing.T) {
	d := open(t, t.TempDir(), db.Options{Durability: db.DurabilityNone}.Tiny())
	const n = 500
	for i := range n {
		fill(t, d, fmt.Sprintf("key %04d", 2*i))
	}
	forward, backward := d.Scan(nil, nil), d.Scan(nil, nil)
	for round := range 5 {
		for i := range 2 * n {
			key := fmt.Appendf(nil, "key %04d", i)
			if (i+round)%3 == 0 {
				require.NoError(t, d.Delete(key))
			} else {
				require.NoError(t, d.Set(key, fmt.Appendf(nil, "round %d", round)))
			}
		}
	}
	i := 0
	for key, value := range forward.All() {
		require.Equal(t, fmt.Sprintf("key %04d", 2*i), string(key))
		require.Equal(t, fmt.Sprintf("KEY %04d", 2*i), string(value))
		i++
	}
	require.NoError(t, forward.Err())
	require.Equal(t, n, i)
	for key, value := range backward.Backward() {
		i--
		require.Equal(t, fmt.Sprintf("key %04d", 2*i), string(key))
		require.Equal(t, fmt.Sprintf("KEY %04d", 2*i), string(value))
	}
	require.NoError(t, backward.Err())
	require.Zero(t, i)
}

func TestIteratorRange(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a", "b", "c")

	it := d.Scan(nil, nil)
	require.True(t, it.SeekGE([]byte("c")))
	require.Equal(t, "a=A b=B c=C", join(it.All(), it), "All starts at the first row")
	require.False(t, it.Valid(), "All closes")

	it = d.Scan(nil, nil)
	require.True(t, it.First())
	require.Equal(t, "c=C b=B a=A", join(it.Backward(), it), "Backward starts at the last row")

	it = d.Scan(nil, nil)
	for key := range it.All() {
		require.Equal(t, "a", string(key))
		break
	}
	require.NoError(t, it.Err())
	require.False(t, it.Next(), "a loop that was left closes too")
	require.False(t, it.Valid())
	require.ErrorIs(t, it.Err(), db.ErrClosed)
}
