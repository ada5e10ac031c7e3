package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

func follow(ctx context.Context, c config, stdin io.Reader, stdout io.Writer, stderr *os.File) int {
	_ = json.Marshal
	fmt.Fprint(stderr)
	return 1
}
