// Sends one message with Go's net/smtp; described by JSON on standard input, see clients/node/send.js.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
)

type job struct {
	Host       string   `json:"host"`
	Port       int      `json:"port"`
	Security   string   `json:"security"`
	CA         string   `json:"ca"`
	User       string   `json:"user"`
	Password   string   `json:"password"`
	From       string   `json:"from"`
	To         []string `json:"to"`
	Subject    string   `json:"subject"`
	Text       string   `json:"text"`
	Attachment *struct {
		Name   string `json:"name"`
		Base64 string `json:"base64"`
	} `json:"attachment"`
}

func main() {
	if err := send(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func send() error {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	pem, err := os.ReadFile(j.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{ServerName: j.Host, RootCAs: roots}
	client, err := connect(j, config)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Auth(smtp.PlainAuth("", j.User, j.Password, j.Host)); err != nil {
		return err
	}
	if err := client.Mail(j.From); err != nil {
		return err
	}
	for _, to := range j.To {
		if err := client.Rcpt(to); err != nil {
			return err
		}
	}
	data, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := data.Write(message(j)); err != nil {
		return err
	}
	if err := data.Close(); err != nil {
		return err
	}
	return client.Quit()
}

func connect(j job, config *tls.Config) (*smtp.Client, error) {
	address := net.JoinHostPort(j.Host, fmt.Sprint(j.Port))
	if j.Security == "implicit" {
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			return nil, err
		}
		return smtp.NewClient(conn, j.Host)
	}
	client, err := smtp.Dial(address)
	if err != nil {
		return nil, err
	}
	return client, client.StartTLS(config)
}

func message(j job) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\nSubject: %s\r\nMIME-Version: 1.0\r\n",
		j.From, strings.Join(j.To, ", "), mime.QEncoding.Encode("utf-8", j.Subject))
	parts := multipart.NewWriter(&b)
	fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=%s\r\n\r\n", parts.Boundary())
	text, _ := parts.CreatePart(textproto.MIMEHeader{
		"Content-Type":              {"text/plain; charset=utf-8"},
		"Content-Transfer-Encoding": {"quoted-printable"},
	})
	quoted := quotedprintable.NewWriter(text)
	fmt.Fprint(quoted, j.Text)
	quoted.Close()
	if j.Attachment != nil {
		file, _ := parts.CreatePart(textproto.MIMEHeader{
			"Content-Type":              {"application/octet-stream"},
			"Content-Disposition":       {mime.FormatMediaType("attachment", map[string]string{"filename": j.Attachment.Name})},
			"Content-Transfer-Encoding": {"base64"},
		})
		fmt.Fprint(file, j.Attachment.Base64)
	}
	parts.Close()
	return b.Bytes()
}
