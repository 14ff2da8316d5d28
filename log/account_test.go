package log

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAccount: updates and bytes are counted apart, below zero too.
func TestAccount(t *testing.T) {
	var a account
	check := func(bytes, updates int64) {
		t.Helper()
		b, n := a.read()
		require.Equal(t, []int64{bytes, updates}, []int64{b, n})
	}
	check(0, 0)
	a.sub(100) // what was added is seen later
	check(-100, -1)
	a.add(1 << 30)
	check(1<<30-100, 0)
	a.add(100)
	a.sub(1 << 30)
	check(0, 0)
	for range 1000 {
		a.add(1 << 20)
	}
	check(1000<<20, 1000)
}
