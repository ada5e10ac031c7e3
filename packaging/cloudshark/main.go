// Cloudshark is a local stand-in for a CloudShark server, for the
// demonstration: it checks each upload, says what it got, and forgets it.
//
// Usage: cloudshark [-listen host:port] token
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"pcapdaemon/sharktest"
)

func main() {
	log.SetFlags(0)
	listen := flag.String("listen", "127.0.0.1:0", "`address` to listen on; port 0: any free one")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: cloudshark [-listen host:port] token")
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr()) // whoever started this wants to know the port
	os.Stdout.Close()
	log.Fatal(http.Serve(listener, &sharktest.Handler{Token: flag.Arg(0), Taken: func(u sharktest.Upload) {
		packets, _ := u.Packets() // has been counted before
		log.Printf("CloudShark got %s: %d packets\n  tags     %s\n  comments %s", u.File, packets, u.Tags, u.Comments)
	}}))
}
