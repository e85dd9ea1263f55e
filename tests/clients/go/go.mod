module stagepost.test/client

go 1.19
