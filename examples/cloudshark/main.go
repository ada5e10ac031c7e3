// Cloudshark is a local stand-in for a CloudShark server, to try pcapdaemon
// with: it checks each upload, says what it got, and forgets it.
//
// Usage: cloudshark [-listen host:port] token
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
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
	var uploads atomic.Int64
	http.HandleFunc("POST /api/v1/{token}/upload", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript") // as the real one does
		if r.PathValue("token") != flag.Arg(0) {
			refuse(w, http.StatusUnauthorized, errors.New("invalid token"))
			return
		}
		name, packets, err := check(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		log.Printf("CloudShark got %s: %d packets\n  tags     %s\n  comments %s", name, packets, r.FormValue("additional_tags"), r.FormValue("comments"))
		fmt.Fprintf(w, `{"filename":%q,"id":"%012x"}`, name, uploads.Add(1))
	})
	log.Fatal(http.Serve(listener, nil))
}

// refuse answers like CloudShark does.
func refuse(w http.ResponseWriter, status int, err error) {
	log.Print("CloudShark refuses: ", err)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"status":%d,"exceptions":[%q]}`, status, err)
}

// check returns the name of the uploaded file and how many packets are in it.
func check(r *http.Request) (name string, packets int, err error) {
	if r.ContentLength < 0 {
		return "", 0, errors.New("no Content-Length")
	}
	file, header, err := r.FormFile("file")
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	packets, err = count(file)
	if name = r.FormValue("filename"); err == nil && name != header.Filename {
		err = errors.New("the file has two names")
	}
	return name, packets, err
}

// count returns the number of packets of a pcap file, whole to the last byte.
func count(file io.Reader) (int, error) {
	var header [24]byte
	if _, err := io.ReadFull(file, header[:]); err != nil || binary.LittleEndian.Uint32(header[:]) != 0xa1b2c3d4 {
		return 0, errors.New("not a pcap file")
	}
	for n := 0; ; n++ {
		if _, err := io.ReadFull(file, header[:16]); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		size := int64(binary.LittleEndian.Uint32(header[8:]))
		if _, err := io.CopyN(io.Discard, file, size); err != nil {
			return n, err
		}
	}
}
