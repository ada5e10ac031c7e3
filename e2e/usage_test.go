package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestWrongUsage: one line on standard error that names the flag, and exit code 2.
func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	local := []string{"-writelocal", "-destdir", dir}
	for name, test := range map[string]struct {
		args    []string
		culprit string
	}{
		"no destination":            {nil, "-maxreturn"},
		"no directory":              {[]string{"-writelocal"}, "-destdir"},
		"directory is missing":      {[]string{"-writelocal", "-destdir", dir + "/no"}, "-destdir"},
		"directory is a file":       {[]string{"-writelocal", "-destdir", file}, "-destdir"},
		"spare directory missing":   {[]string{"-upload", "-cstoken", "abc", "-destdir", dir + "/no"}, "-destdir"},
		"default token":             {[]string{"-upload"}, "-cstoken"},
		"empty token":               {[]string{"-upload", "-cstoken", ""}, "-cstoken"},
		"empty token file":          {[]string{"-upload", "-cstokenfile", file}, "-cstokenfile"},
		"token file missing":        {[]string{"-upload", "-cstokenfile", dir + "/no"}, "-cstokenfile"},
		"scheme":                    {append(local, "-csscheme", "ftp"), "-csscheme"},
		"host with a scheme":        {append(local, "-cshost", "https://cs"), "-cshost"},
		"host with a path":          {append(local, "-cshost", "cs/x"), "-cshost"},
		"port 0":                    {append(local, "-redisport", "0"), "-redisport"},
		"port too high":             {append(local, "-redisport", "65536"), "-redisport"},
		"port is a word":            {append(local, "-redisport", "http"), "-redisport"},
		"negative size":             {append(local, "-maxbytes", "-1"), "-maxbytes"},
		"size too small":            {append(local, "-maxbytes", "23"), "-maxbytes"},
		"unit that is none":         {append(local, "-maxbytes", "5 parsec"), "-maxbytes"},
		"memory below a chunk":      {append(local, "-maxmemory", "1KB"), "-maxmemory"},
		"kernel buffer too large":   {append(local, "-buffersize", "2GiB"), "-buffersize"},
		"no packets":                {append(local, "-maxpackets", "0"), "-maxpackets"},
		"no captures":               {append(local, "-maxcaptures", "0"), "-maxcaptures"},
		"duration without unit":     {append(local, "-maxtimeout", "60"), "-maxtimeout"},
		"negative duration":         {append(local, "-cstimeout", "-1s"), "-cstimeout"},
		"no time":                   {append(local, "-draintimeout", "0s"), "-draintimeout"},
		"default above maximum":     {append(local, "-defaulttimeout", "2h"), "-defaulttimeout"},
		"switch with a word":        {append(local, "-upload=maybe"), "-upload"},
		"level":                     {append(local, "-loglevel", "loud"), "-loglevel"},
		"format":                    {append(local, "-logformat", "xml"), "-logformat"},
		"address to listen on":      {append(local, "-listen", "9100"), "-listen"},
		"interfaces with a gap":     {append(local, "-interfaces", "a,,b"), "-interfaces"},
		"recorded name is no text":  {append(local, "-record", "x\xff"), "-record"},
		"no node name":              {append(local, "-node", ""), "-node"},
		"node name of two lines":    {append(local, "-node", "a\nb"), "-node"},
		"directory of two lines":    {[]string{"-writelocal", "-destdir", dir + "/no\nsuch"}, "-destdir"},
		"spool is missing":          {append(local, "-spooldir", dir+"/no"), "-spooldir"},
		"no channel":                {append(local, "-redischannel", ""), "-redischannel"},
		"one channel for both":      {append(local, "-redischannel", "x", "-resultchannel", "x"), "-resultchannel"},
		"argument":                  {append(local, "start"), "start"},
		"long dash":                 {[]string{"–publish", "node=a"}, "plain dash"},
		"unknown flag":              {append(local, "-bogus"), "-bogus"},
		"flag without its value":    {[]string{"-destdir"}, "-destdir"},
		"CA file of CloudShark":     {append(local, "-cscafile", dir+"/no"), "-cscafile"},
		"CA file without any":       {append(local, "-cscafile", file), "-cscafile"},
		"CA file of Redis":          {append(local, "-rediscafile", dir+"/no"), "-rediscafile"},
		"URL of another scheme":     {append(local, "-redisurl", "http://:geheim@h"), "-redisurl"},
		"URL that is none":          {append(local, "-redisurl", "redis://:geheim@h:port"), "-redisurl"},
		"request and publish":       {append(local, "-request", "{}", "-publish", "{}"), "-publish"},
		"request and roll call":     {append(local, "-request", "{}", "-rollcall"), "-rollcall"},
		"a word that is wrong":      {[]string{"-publish", "node=a", "timout=5"}, "timout=5"},
		"a flag after the words":    {[]string{"-publish", "node=a", "timeout=5", "-destdir", dir}, "flags stand before"},
		"a word after JSON":         {[]string{"-publish", "{}", "timeout=5"}, "timeout=5"},
		"roll call of what":         {[]string{"-rollcall", "web1"}, "web1"},
		"directory to fetch into":   {[]string{"-publish", "{}", "-destdir", file}, "-destdir"},
		"fetch where to":            {[]string{"-fetch", "r1"}, "-destdir"},
		"fetch what":                {append(local, "-fetch", ""), "-fetch"},
		"fetch and publish":         {append(local, "-fetch", "r1", "-publish", "{}"), "-fetch"},
		"fetch and roll call":       {append(local, "-fetch", "r1", "-rollcall"), "-fetch"},
		"fetch without results":     {append(local, "-fetch", "r1", "-resultchannel", ""), "-resultchannel"},
		"roll call without results": {[]string{"-rollcall", "-resultchannel", ""}, "-rollcall"},
		"publish without results":   {[]string{"-publish", "{}", "-resultchannel", ""}, "-resultchannel"},
		"environment":               {append(local, "PCAPDAEMON_REDISPORT=x"), "redisport"},
		"switch in the environment": {append(local, "PCAPDAEMON_UPLOAD=maybe"), "upload"},
		"file above memory":         {append(local, "-maxbytes", "1GiB"), "-maxmemory"},
		"node with a port":          {append(local, "-redisnode", "h:6379"), "-redisport"},
		"unknown variable":          {append(local, "PCAPDAEMON_MAXPAKETS=5"), "PCAPDAEMON_MAXPAKETS"},
		"variable in small letters": {append(local, "PCAPDAEMON_upload=true"), "PCAPDAEMON_upload"},
		"filter that is none":       {append(local, "-filter", "not prot 22"), "-filter"},
		"empty request":             {append(local, "-request", ""), "-request"},
		"empty publish":             {[]string{"-publish", ""}, "-publish"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(binary)
			cmd.Env = os.Environ()
			for _, arg := range test.args {
				if strings.HasPrefix(arg, "PCAPDAEMON_") {
					cmd.Env = append(cmd.Env, arg)
				} else {
					cmd.Args = append(cmd.Args, arg)
				}
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			// A wrong flag that is accepted makes it run for ever.
			p := testbed.Start(t, cmd)
			if code := p.Wait(t, time.Minute); code != 2 {
				t.Errorf("want exit code 2, got %d", code)
			}
			checkComplaint(t, p.Output.String(), test.culprit)
			if out.Len() > 0 {
				t.Errorf("want nothing on standard output, got %q", out.String())
			}
		})
	}
}

func TestVersion(t *testing.T) {
	out, err := exec.Command(binary, "-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := regexp.MustCompile(`^pcapdaemon test, go1\.\S+, libpcap version 1\..*\n$`); !want.Match(out) {
		t.Errorf("want versions of the program, Go and libpcap, got %q", out)
	}
}

// TestBoundsOfFlags: the least and the greatest value of each flag are taken,
// and what is beyond them is wrong usage.
func TestBoundsOfFlags(t *testing.T) {
	local := keeping(t.TempDir())
	for _, test := range []struct {
		flag           string
		taken, refused []string
		more           []string // flags that it needs
	}{
		{"redisport", []string{"1", "65535"}, []string{"0", "65536", "-1", "1.5", ""}, nil},
		{"maxpackets", []string{"1", "2147483647"}, []string{"0", "2147483648", "1e3"}, nil},
		{"maxbytes", []string{"24", "1TiB"}, []string{"23", "-1", "9223372036854775808", "1TiBB"},
			[]string{"-maxmemory", "1TiB"}},
		{"maxmemory", []string{"1MiB", "1EiB"}, []string{"1048575", "9EiB"}, nil},
		{"buffersize", []string{"64KiB", "2147483647"}, []string{"65535", "2GiB"}, nil},
		{"maxcaptures", []string{"1", "1024"}, []string{"0", "1025"}, nil},
		{"defaulttimeout", []string{"1ms", "8760h"}, []string{"0s", "999us", "8760h0m1s", "1", "-1s"},
			[]string{"-maxtimeout", "8760h"}},
		{"maxtimeout", []string{"1s", "8760h"}, []string{"999ms", "8760h0m1s"}, nil},
		{"cstimeout", []string{"1ms", "24h"}, []string{"0s", "24h0m1s"}, nil},
		{"draintimeout", []string{"1ms", "24h"}, []string{"0s", "24h0m1s"}, nil},
		{"node", []string{"a", strings.Repeat("n", 128)}, []string{"", strings.Repeat("n", 129)}, nil},
		{"listen", []string{"127.0.0.1:0", "[::1]:65535"}, []string{"127.0.0.1", ":65536", "::1:80"}, nil},
		{"cshost", []string{"h", "h:1", "[::1]:65535"}, []string{"", "h:0", "h:65536", "::1:80"}, nil},
		{"storeurl", []string{"http://h:1/", "https://[::1]:65535/d"}, []string{"http://h:0/", "http://h:65536/", "http://::1:80/"}, nil},
		{"csscheme", []string{"http", "https"}, []string{"HTTP", ""}, nil},
		{"loglevel", []string{"debug", "error"}, []string{"trace", ""}, nil},
	} {
		t.Run(test.flag, func(t *testing.T) {
			try := func(value string) int {
				// A request for somebody else captures nothing and needs no Redis.
				args := append([]string{"-request", `{"node":"nobody"}`, "-" + test.flag, value}, local...)
				code, _ := runWith(t, nil, append(args, test.more...)...)
				return code
			}
			for _, value := range test.taken {
				if code := try(value); code != 1 {
					t.Errorf("%q: want it taken, got exit code %d", value, code)
				}
			}
			for _, value := range test.refused {
				if code := try(value); code != 2 {
					t.Errorf("%q: want it refused, got exit code %d", value, code)
				}
			}
		})
	}
}
