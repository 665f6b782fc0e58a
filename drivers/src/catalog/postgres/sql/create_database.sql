-- contextos create database
CREATE DATABASE :"database" OWNER :"owner";
